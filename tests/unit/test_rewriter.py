"""The Rewriter: names, weights and blob names stay consistent, and nothing dangles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from nets import by_name, conv, data, fc, layer, names, parse, pool, relu, rewrite

from deeprebirth_caffe.ir import Net, NetError
from deeprebirth_caffe.nets.ledger import LedgerLayers, make_ledger
from deeprebirth_caffe.rewrite import Applied, Kind, Match, Pass, Reason, Refusal, RewriteError, Rewriter
from deeprebirth_caffe.rewrite.learning import learn_faster, restore
from deeprebirth_caffe.rewrite.names import rename_changed_blobs
from deeprebirth_caffe.rewrite.pipeline import run

CHAIN = data(1, 3, 8, 8) + conv("conv", "data") + relu("relu", "conv", "relu") + pool("pool", "relu") + fc("fc", "pool")


def test_derive_gives_a_new_name_in_the_same_place_and_moves_the_weights() -> None:
    net = parse(CHAIN, weights=True)
    assert net.weights is not None
    old = net.weights["conv"]
    rewriter = Rewriter(net)
    before = by_name(net, "conv")
    twin = rewriter.derive(before, Kind.RELEARN)
    rewriter.commit()
    assert names(net) == ["data", "conv_merge", "relu", "pool", "fc"]
    assert before.name == "conv", "the layer of the original is left as it was"
    assert "conv" not in net.weights
    np.testing.assert_array_equal(net.weights["conv_merge"][0], old[0])
    assert rewriter.made == {twin: Kind.RELEARN}
    assert rewriter.origins == {twin: ["conv"]}


def test_a_layer_that_was_made_keeps_its_name_unless_its_kind_changes() -> None:
    net = parse(CHAIN, weights=True)
    rewriter = Rewriter(net)
    folded = rewriter.derive(by_name(net, "conv"), Kind.EXACT, [by_name(net, "relu")])
    assert folded.name == "conv_fold"
    assert rewriter.derive(folded, Kind.EXACT) is folded and folded.name == "conv_fold"
    assert rewriter.derive(folded, Kind.RELEARN, [by_name(net, "pool")]) is folded and folded.name == "conv_merge"
    assert rewriter.derive(folded, Kind.EXACT) is folded and folded.name == "conv_merge"
    assert rewriter.made[folded] is Kind.RELEARN
    assert rewriter.origins[folded] == ["conv", "relu", "pool"]
    rewriter.commit()
    assert net.weights is not None and sorted(net.weights) == ["conv_merge", "fc"]


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([], "conv_merge"),
        (["conv_merge"], "conv_merge2"),
        (["conv_merge", "conv_merge2"], "conv_merge3"),
    ],
)
def test_new_names_are_free(others: list[str], expected: str) -> None:
    """Free of layers and of blobs, since a blob is often named after its layer."""
    for text in ("".join(fc(name, "data") for name in others), "".join(fc(f"x{n}", "data") for n in others)):
        tops = text.replace('top: "x', 'top: "')
        net = parse(data(1, 3, 8, 8) + conv("conv", "data") + tops)
        assert Rewriter(net).fresh("conv", Kind.RELEARN) == expected


def test_a_second_conversion_does_not_stack_suffixes() -> None:
    rewriter = Rewriter(parse(data(1, 3, 8, 8) + conv("conv_merge", "data")))
    assert rewriter.fresh("conv_merge", Kind.RELEARN) == "conv_merge2"
    assert rewriter.fresh("conv_merge2", Kind.RELEARN) == "conv_merge3"
    assert rewriter.fresh("conv_merge", Kind.EXACT) == "conv_fold"
    assert rewriter.free("new") == "new" and rewriter.free("new") == "new2"


def test_erase_of_the_sole_reader_keeps_the_text_below() -> None:
    net = parse(CHAIN)
    rewriter = Rewriter(net)
    rewriter.erase(by_name(net, "relu"))
    rewriter.commit()
    assert list(by_name(net, "conv").tops) == ["relu"]
    assert list(by_name(net, "pool").bottoms) == ["relu"]


def test_erase_beside_other_readers_rewires() -> None:
    net = parse(CHAIN + pool("other", "conv"))
    rewriter = Rewriter(net)
    rewriter.erase(by_name(net, "relu"), sole=False)
    rewriter.commit()
    assert list(by_name(net, "pool").bottoms) == ["conv"]
    assert list(by_name(net, "other").bottoms) == ["conv"]


def test_erase_in_place_renames_nothing() -> None:
    net = parse(data(1, 3, 8, 8) + conv("conv", "data") + relu("relu", "conv") + pool("pool", "conv"))
    rewriter = Rewriter(net)
    rewriter.erase(by_name(net, "relu"))
    rewriter.commit()
    assert names(net) == ["data", "conv", "pool"] and list(by_name(net, "pool").bottoms) == ["conv"]


def test_erase_wants_one_bottom_and_one_top() -> None:
    net = parse(data(1, 3, 8, 8) + layer("Eltwise", "sum", ("data", "data")))
    with pytest.raises(RewriteError, match='layer "sum" has 2 bottoms and 1 tops'):
        Rewriter(net).erase(by_name(net, "sum"))


def test_a_dangling_use_is_refused() -> None:
    net = parse(CHAIN)
    rewriter = Rewriter(net)
    rewriter.remove(by_name(net, "relu"))
    with pytest.raises(NetError, match='layer "pool" reads blob "relu"'):
        rewriter.commit()


def test_weights_of_a_layer_with_its_old_name_do_not_change() -> None:
    net = parse(CHAIN, weights=True)
    with pytest.raises(RewriteError, match='layer "conv" would change its weights under its old name'):
        Rewriter(net).set_weights(by_name(net, "conv"), [])


def test_remove_leaves_the_weights_of_a_namesake() -> None:
    """A train_val may have one BatchNorm for TRAIN and one for TEST, with one name and so with the same weights."""
    net = parse(
        data(1, 3, 8, 8)
        + fc("fc", "data", rest="include { phase: TRAIN }")
        + fc("fc", "data", rest="include { phase: TEST }"),
        weights=True,
    )
    assert net.weights is not None
    rewriter = Rewriter(net)
    first, second = net.layer_named("fc")
    rewriter.remove(first)
    assert "fc" in net.weights
    rewriter.remove(second)
    assert "fc" not in net.weights


def test_insert_before_and_replace_in_one_sweep() -> None:
    net = parse(CHAIN)
    rewriter = Rewriter(net)
    anchor = by_name(net, "pool")
    new = parse(relu("new", "relu", "new")).layers[0]
    rewriter.insert_before(anchor, new)
    twin = rewriter.derive(anchor, Kind.EXACT)
    rewriter.set_bottoms(twin, ["new"])
    rewriter.remove(by_name(net, "fc"))
    rewriter.commit()
    assert names(net) == ["data", "conv", "relu", "new", "pool_fold"]
    rewriter.rename_blob("new", "newer")
    rewriter.commit()
    assert list(new.tops) == ["newer"] and list(twin.bottoms) == ["newer"]
    assert rewriter.free("newer") == "newer2"


def test_what_is_known_of_the_data_moves_with_its_layer() -> None:
    net = parse(layer("Data", "data", (), "data", "data_param { batch_size: 1 }") + fc("fc", "data"), datum=(3, 8, 8))
    rewriter = Rewriter(net)
    rewriter.derive(by_name(net, "data"), Kind.EXACT)
    rewriter.commit()
    assert net.views[0].blobs["data"].shape == (1, 3, 8, 8)


def test_the_ledger_is_about_layers_of_the_net() -> None:
    """A file of weights may hold more, such as the heads that a deploy net does not have."""
    net = parse(CHAIN, weights=True)
    assert net.weights is not None
    net.weights.set("loss1/classifier", [np.zeros(3)])
    original = net.copy()
    rewriter = Rewriter(net)
    rewriter.derive(by_name(net, "conv"), Kind.RELEARN)
    rewriter.commit()
    assert make_ledger(original, rewriter).layers == LedgerLayers(
        copied=("fc",), folded=(), relearned=("conv_merge",), dropped=("conv",)
    )
    without = parse(CHAIN)
    rewriter = Rewriter(without.copy())
    rewriter.derive(by_name(rewriter.net, "conv"), Kind.EXACT)
    rewriter.commit()
    assert make_ledger(without, rewriter).layers == LedgerLayers(
        copied=("fc",), folded=("conv_fold",), relearned=(), dropped=("conv",)
    )


def test_batch_is_set_where_a_source_is_read() -> None:
    net = parse(layer("Data", "data", (), "data", "data_param { batch_size: 1 }") + fc("fc", "data"))
    rewriter = Rewriter(net)
    for one in net.layers:
        rewriter.set_batch(one, 32)
    assert net.layers[0].param.data_param.batch_size == 32
    assert "batch_size" not in str(net.layers[1].param)


# A blob whose shape changed gets a new name.


def changed(text: str, stride: int = 2) -> tuple[Net, list[tuple[str, str]]]:
    net = parse(text)
    original = net.copy()
    rewriter = Rewriter(net)
    twin = rewriter.derive(by_name(net, "conv"), Kind.RELEARN)
    twin.param.convolution_param.stride.append(stride)
    rewriter.commit()
    return net, rename_changed_blobs(original, rewriter)


def test_blobs_of_another_shape_get_another_name() -> None:
    text = data(1, 3, 9, 9) + conv("conv", "data") + relu("r", "conv") + relu("s", "conv", "s") + fc("fc", "s")
    net, renamed = changed(text)
    assert renamed == [("conv", "conv_merge"), ("s", "s_merge")]
    assert list(by_name(net, "r").tops) == ["conv_merge"] and list(by_name(net, "s").bottoms) == ["conv_merge"]
    assert list(by_name(net, "fc").bottoms) == ["s_merge"]


def test_outputs_of_the_net_keep_their_names() -> None:
    _, renamed = changed(data(1, 3, 9, 9) + conv("conv", "data") + relu("s", "conv", "s"))
    assert renamed == [("conv", "conv_merge")]


def test_a_blob_of_the_same_shape_keeps_its_name() -> None:
    assert changed(data(1, 3, 9, 9) + conv("conv", "data") + fc("fc", "conv"), stride=1)[1] == []


# Learning rates.


def lr_mults(net: Net, name: str) -> list[float]:
    return [spec.lr_mult for spec in by_name(net, name).param.param]


def test_rebirth_layers_learn_ten_times_as_fast_and_go_back() -> None:
    net = parse(
        data(1, 3, 9, 9)
        + conv("both", "data", rest="param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }")
        + conv("one", "data", rest="param { lr_mult: 0.5 }")
        + conv("none", "data")
        + conv("no_bias", "data", fields="bias_term: false")
        + layer("BatchNorm", "bn", "data", "bn")
        + layer("Scale", "scale", "data", "scale", "scale_param { bias_term: true }")
        + layer("PReLU", "prelu", "data", "prelu")
        + relu("relu", "data", "relu")
    )
    originals = learn_faster(net.layers, 10)
    assert originals == {
        "both": [1, 2],
        "one": [0.5, 1],
        "none": [1, 1],
        "no_bias": [1],
        "scale": [1, 1],
        "prelu": [1],
    }
    assert lr_mults(net, "both") == [10, 20] and lr_mults(net, "one") == [5, 10]
    assert lr_mults(net, "none") == [10, 10] and lr_mults(net, "no_bias") == [10]
    assert [spec.decay_mult for spec in by_name(net, "both").param.param] == [1, 0]
    assert lr_mults(net, "bn") == lr_mults(net, "relu") == []
    assert restore(net, {**originals, "gone": [1.0]}) == list(originals)
    assert lr_mults(net, "both") == [1, 2] and lr_mults(net, "one") == [0.5, 1]


# The pipeline.


@dataclass(frozen=True)
class Drop(Pass[None]):
    """Takes ReLUs out, one a sweep where they touch."""

    name: ClassVar[str] = "drop"
    kind: ClassVar[Kind] = Kind.RELEARN

    def match(self, net: Net) -> Iterator[Match[None] | Refusal]:
        for one in net.layers:
            if one.type == "ReLU":
                yield Match(one, frozenset([one, *(user for user, _ in net.readers(one))]), None)
            elif one.type == "Pooling":
                yield Refusal(one, Reason("a pool"))

    def apply(self, match: Match[None], rewriter: Rewriter) -> Applied:
        rewriter.erase(match.layer)
        return Applied([match.layer.name])


@dataclass(frozen=True)
class DropExactly(Drop):
    name: ClassVar[str] = "drop-exactly"
    kind: ClassVar[Kind] = Kind.EXACT


@dataclass(frozen=True)
class Rename(Pass[None]):
    """Never comes to an end."""

    name: ClassVar[str] = "rename"
    kind: ClassVar[Kind] = Kind.RELEARN

    def match(self, net: Net) -> Iterator[Match[None] | Refusal]:
        yield Match(net.layers[0], frozenset(net.layers), None)

    def apply(self, match: Match[None], rewriter: Rewriter) -> Applied:
        return Applied()


RELUS = data(1, 3, 8, 8) + conv("a", "data") + relu("r", "a") + relu("s", "a") + relu("t", "a") + pool("p", "a")


def test_a_pass_runs_until_it_finds_nothing_and_touching_matches_wait() -> None:
    net = parse(RELUS)
    outcome = rewrite(net, Drop())
    assert [one.applied.removed for one in outcome.rewrites] == [["r"], ["t"], ["s"]]
    assert [(one.layer, one.stage, one.reason) for one in outcome.refusals] == [("p", "a", "a pool")]


def test_only_selected_stages_change_or_are_reported() -> None:
    net = parse(RELUS)
    outcome = run(Rewriter(net), [Drop()], lambda stage: stage != "a")
    assert not outcome.rewrites and not outcome.refusals


def test_a_pass_without_end_is_stopped() -> None:
    with pytest.raises(RewriteError, match="pass rename does not come to an end"):
        rewrite(parse(RELUS), Rename())


def test_exact_runs_are_kept_for_the_check() -> None:
    text = RELUS
    net = parse(text)
    outcome = run(Rewriter(net), [DropExactly(), Drop(), DropExactly()], keep_exact=True)
    (only,) = outcome.exact_runs
    assert only.passes == ("drop-exactly",)
    assert names(only.before) == ["data", "a", "r", "s", "t", "p"] and names(only.after) == ["data", "a", "p"]
    assert run(Rewriter(parse(text)), [DropExactly()]).exact_runs == []
    assert run(Rewriter(parse(text)), [Drop()], keep_exact=True).exact_runs == []


def test_maximal_runs_of_exact_passes_are_one() -> None:
    outcome = run(Rewriter(parse(RELUS)), [DropExactly(), DropExactly(), Drop()], keep_exact=True)
    assert [one.passes for one in outcome.exact_runs] == [("drop-exactly",)]
