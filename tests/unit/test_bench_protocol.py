"""Who runs when: nets in turn, energy and layers with them, and what an interruption leaves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deeprebirth_caffe.bench.breakdown import Group, LayerTime, grouped, layer_times, tensor_share
from deeprebirth_caffe.bench.protocol import Measured, idle_watts, interleave
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.options.time import Plan


class Net3:
    """Stands in for a net; writes down what it is asked."""

    single = True
    pid = None

    def __init__(self, name: str, diary: list[str], stop: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self.diary = diary
        self.stop = stop

    def run(self, iterations: int, warmup: int) -> list[float]:
        self.stop()
        self.diary.append(f"{self.name} {iterations}+{warmup}")
        return [1.0] * iterations

    def layers(self, iterations: int) -> list[tuple[str, float]] | None:
        self.diary.append(f"{self.name} layers {iterations}")
        return [("a", float(len(self.diary))), ("b", 1.0)]

    def describe(self) -> dict[str, object]:
        return {}

    def peak_rss_bytes(self) -> int | None:
        self.diary.append(f"{self.name} memory")
        return 5

    def notes(self) -> list[str]:
        return []

    def close(self) -> None:
        pass


class Meter:
    method = "counts"

    def __init__(self) -> None:
        self.running = False

    def start(self) -> None:
        self.running = True

    def joules(self) -> float | None:
        assert self.running
        return 2.0


def test_nets_take_turns_back_and_forth() -> None:
    diary: list[str] = []
    naps: list[float] = []
    ticks: list[int] = []
    plan = Plan(runs=3, iterations=4, warmup=2, cooldown=1.5)
    found = interleave(
        [Net3("a", diary), Net3("b", diary)], plan, meter=Meter(), tick=lambda: ticks.append(1), sleep=naps.append
    )
    assert diary[:6] == ["a 4+2", "a memory", "a layers 1", "b 4+2", "b memory", "b layers 1"]
    assert diary[6:] == [f"{name} {what}" for name in "baab" for what in ("4+2", "layers 1")]
    assert [len(one.runs) for one in found] == [3, 3] and found[0].joules == [2.0] * 3
    assert naps == [1.5] * 6 and len(ticks) == plan.steps(2) == 6
    assert found[0].peak_rss_bytes == 5


def test_layers_only_where_they_are_wanted() -> None:
    diary: list[str] = []
    interleave([Net3("a", diary)], Plan(2, 1, 0, layers=False))
    assert diary == ["a 1+0", "a memory", "a 1+0"]


def test_an_interruption_keeps_whole_rounds() -> None:
    diary: list[str] = []

    def stop() -> None:
        if len(diary) == 12:
            raise KeyboardInterrupt

    first, second = interleave([Net3("a", diary, stop), Net3("b", diary, stop)], Plan(10, 1, 0))
    assert (len(first.runs), len(second.runs)) == (2, 2)
    assert first.interrupted and second.interrupted


def test_an_interruption_before_there_is_anything() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interleave([Net3("a", [], stop)], Plan(10, 1, 0))


def test_idle_power() -> None:
    watts = idle_watts(Meter(), sleep=lambda seconds: None)
    assert watts is not None and watts > 2


def test_layers_are_the_median_of_rounds_even_with_names_that_repeat() -> None:
    rounds = [[("a", 1.0), ("b", 5.0), ("a", 7.0)], [("a", 3.0), ("b", 5.0), ("a", 8.0)], [("a", 2.0), ("b", 6.0)]]
    assert Measured(rows=rounds).layers() == [("a", 2.0), ("b", 5.0), ("a", 7.5)]
    assert Measured().layers() is None


NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 8 dim: 8 } } }
layer { name: "m/a" type: "Convolution" bottom: "data" top: "m/a" convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "m/r" type: "ReLU" bottom: "m/a" top: "m/a" }
layer { name: "n/b" type: "Convolution" bottom: "m/a" top: "n/b" convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "m/a" bottom: "n/b" top: "sum" }
"""


def test_rows_get_types_and_stages() -> None:
    net = Net.parse(NET)
    stages = {layer.name: layer.stage for layer in net.layers}
    names = [
        "m/a",
        "m/r",
        "m/a_m/r_0_split",
        "n/b_nchwc",
        "fused n/b",
        "n/b/Flatten_token_3",
        "ReorderOutput_token_7",
        "sum",
        "what",
    ]
    found = layer_times([(name, 1.0) for name in names], net.view("TEST"), stages)
    assert [(one.type, one.stage, one.tensor) for one in found] == [
        ("Convolution", "m", True),
        ("ReLU", "m", False),
        ("Split", "m", False),
        *[("Convolution", "n", True)] * 3,
        ("(layout)", "(layout)", False),
        ("Eltwise", "m", False),
        ("", "", None),
    ]
    assert tensor_share(found[:-1]) == pytest.approx(4 / 8)
    assert tensor_share(found) is None  # a ninth of the time belongs to no layer
    assert tensor_share(()) is None


def test_groups() -> None:
    layers = [
        LayerTime("a", "Convolution", "s", True, 2.0),
        LayerTime("b", "ReLU", "s", False, 1.0),
        LayerTime("c", "", "", None, 4.0),
    ]
    assert grouped(layers, "stage") == {"s": Group(2.0, 1.0), "?": Group(0.0, 4.0)}
    assert list(grouped(layers, "layer")) == ["a", "b", "c"]
    assert grouped(layers, "type")["ReLU"].ms == 1.0
