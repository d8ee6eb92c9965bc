"""Memory, storage, energy: figures that can be worked out by hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from nets import conv, data, fc, layer, pool, relu

from deeprebirth_caffe import zoo
from deeprebirth_caffe.bench.costs import costs, storage_bytes
from deeprebirth_caffe.bench.energy import RaplMeter, per_pass, rapl
from deeprebirth_caffe.engines.prepare import probe_net
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.ir.memory import PROCESS_BYTES, fit, reused_bytes
from deeprebirth_caffe.ir.probe import save_weights


def view(text: str, batch: int | None = None):  # type: ignore[no-untyped-def]
    net = Net.parse(text)
    return probe_net(net, net.view("TEST"), batch).view("TEST")


def test_a_chain_needs_two_blobs_at_a_time() -> None:
    # 2 x 8 x 8 -> 4 x 8 x 8 -> 8 x 8 x 8 -> 1 x 8 x 8, pointwise
    chain = data(1, 2, 8, 8) + conv("a", "data", 4, 1) + conv("b", "a", 8, 1) + conv("c", "b", 1, 1)
    assert reused_bytes(view(chain)) == 4 * 64 * (4 + 8)


def test_in_place_layers_need_no_blob_of_their_own() -> None:
    chain = data(1, 2, 8, 8) + conv("a", "data", 4, 1)
    assert reused_bytes(view(chain)) == 4 * 64 * (2 + 4)
    assert reused_bytes(view(chain + relu("r", "a"))) == 4 * 64 * (2 + 4)
    own = layer("ReLU", "r", "a")
    assert reused_bytes(view(chain + own)) == 4 * 64 * (4 + 4)


def test_a_blob_lives_until_its_last_reader() -> None:
    fork = (
        data(1, 2, 8, 8)
        + conv("a", "data", 4, 1)
        + conv("b", "a", 8, 1)
        + conv("c", "b", 8, 1)
        + layer("Concat", "d", ["a", "c"])
    )
    # while c runs: a (4), b (8), c (8); while d runs: a (4), c (8), d (12)
    assert reused_bytes(view(fork)) == 4 * 64 * 24


def test_inputs_and_outputs_count_throughout() -> None:
    two = data(1, 2, 8, 8) + conv("a", "data", 9, 1) + conv("b", "data", 1, 1)
    # a is an output and stays while b runs
    assert reused_bytes(view(two)) == 4 * 64 * (2 + 9 + 1)


def test_flatten_shares_its_input() -> None:
    flat = data(1, 2, 8, 8) + conv("a", "data", 4, 1) + layer("Flatten", "f", "a")
    assert reused_bytes(view(flat)) == 4 * 64 * (2 + 4)


def test_never_more_than_all_blobs() -> None:
    for name in ("googlenet28", "resnet64", "alexnet64"):
        found = costs(Net.parse(zoo.build(name).deploy))
        assert found.reused_bytes is not None and found.memory_bytes is not None
        assert 0 < found.reused_bytes < found.memory_bytes


def test_the_batch_that_fits() -> None:
    text = data(1, 3, 9, 9) + conv("a", "data", 5, 3) + conv("b", "a", 7, 1)
    model = fit(view(text, 1), view(text, 2))
    assert model is not None
    # conv a: 27 taps for each of 7 x 7 places; conv b is pointwise and unrolls nothing; a one a place for each bias
    assert model.workspace_bytes == 4 * (27 * 49 + 2 * 49)
    assert model.param_bytes == 4 * (5 * 27 + 5 + 7 * 5 + 7)
    assert model.image_bytes == 4 * (3 * 81 + 5 * 49 + 7 * 49) and model.constant_bytes == 0
    assert model.bytes(0) == PROCESS_BYTES + model.param_bytes + model.workspace_bytes
    room = model.bytes(10)
    assert (model.largest(room - 1), model.largest(room)) == (9, 10)
    assert model.largest(model.param_bytes) == 0


def test_the_columns_of_a_deconvolution() -> None:
    fields = "convolution_param { num_output: 5 kernel_size: 3 bias_term: false }"
    text = data(1, 2, 4, 4) + layer("Deconvolution", "a", "data", fields=fields)
    model = fit(view(text, 1), view(text, 2))
    assert model is not None and model.workspace_bytes == 4 * 5 * 9 * 16


def test_a_net_whose_batch_is_its_own_affair_has_no_model() -> None:
    text = data(1, 3, 9, 9) + conv("a", "data", 5, 3)
    assert fit(view(text, 1), view(text, 1)) is None


def test_batches_in_12_gib() -> None:
    """As measured in real Caffe's process, to half a percent; the paper has 350 and 321."""
    for name, batch in (("googlenet", 350), ("squeezenet1.0", 371)):
        model = costs(Net.parse(zoo.build(name).deploy)).fit
        assert model is not None and model.largest(12 << 30) == pytest.approx(batch, rel=0.005)


def test_costs_are_those_of_an_image() -> None:
    text = data(1, 3, 9, 9) + conv("a", "data", 5, 3) + pool("b", "a") + fc("c", "b")
    one, ten = (costs(Net.parse(text.replace("dim: 1 ", f"dim: {batch} "))) for batch in (1, 10))
    assert (one.memory_bytes, one.reused_bytes, one.fit) == (ten.memory_bytes, ten.reused_bytes, ten.fit)
    assert ten.memory_required_for_data == 10 * (one.memory_required_for_data or 0)


def test_storage_is_the_size_of_the_file(tmp_path: Path) -> None:
    net = Net.parse(data(1, 3, 9, 9) + conv("a", "data", 5, 3) + relu("r", "a") + fc("b", "a", 4))
    weights = random_weights(net)
    save_weights(tmp_path / "w.caffemodel", net, weights)
    assert storage_bytes(net, weights) == (tmp_path / "w.caffemodel").stat().st_size


# ---------------------------------------------------------------- energy

ZONE = "/sys/class/powercap/intel-rapl:0"


class Counters:
    """powercap's files."""

    def __init__(self, *energies: int, names: Iterable[str] = ("package-0",)) -> None:
        self.energies = list(energies)
        self.names = list(names)

    def __call__(self, patterns: Iterable[str]) -> dict[str, str]:
        wanted = list(patterns)
        found = {}
        for number, name in enumerate(self.names):
            zone = f"{ZONE[:-1]}{number}"
            found[f"{zone}/name"] = name + "\n"
            found[f"{zone}/max_energy_range_uj"] = "999999\n"
            if self.energies:
                found[f"{zone}/energy_uj"] = f"{self.energies[0]}\n"
        if any(pattern.endswith("energy_uj") for pattern in wanted) and len(self.energies) > 1:
            self.energies.pop(0)
        return found


def test_no_counter() -> None:
    text = rapl(lambda patterns: {})
    assert isinstance(text, str) and text.startswith("not available here: ")


def test_a_counter_that_may_not_be_read() -> None:
    text = rapl(Counters())
    assert isinstance(text, str) and "may not be read" in text


def test_core_zones_are_part_of_the_package() -> None:
    assert isinstance(rapl(Counters(5, names=["core"])), str)
    meter = rapl(Counters(5, names=["package-0", "core"]))
    assert isinstance(meter, RaplMeter) and "1 of them" in meter.method


def test_joules() -> None:
    meter = RaplMeter(Counters(100_000, 350_000), [ZONE])
    meter.start()
    assert meter.joules() == pytest.approx(0.25)


def test_the_counter_begins_anew() -> None:
    meter = RaplMeter(Counters(900_000, 150_000), [ZONE])
    meter.start()
    assert meter.joules() == pytest.approx(0.25)


def test_the_counter_goes_away() -> None:
    meter = RaplMeter(lambda patterns: {}, [ZONE])
    meter.start()
    assert meter.joules() is None


def test_energy_of_a_pass() -> None:
    found = per_pass([1.0, 2.0, None, 4.0], 100, 7.5)
    assert found is not None
    assert (found.millijoules, found.low, found.high, found.idle_watts) == (20, 10, 40, 7.5)
    assert per_pass([None], 100, None) is None
