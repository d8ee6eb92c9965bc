"""Where a teacher and its student meet: heads, blobs, data, and what is refused before anything starts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from deeprebirth_caffe import zoo
from deeprebirth_caffe.commands.convert import passes_of
from deeprebirth_caffe.errors import RebirthError, UsageError
from deeprebirth_caffe.formats.caffemodel import write_caffemodel
from deeprebirth_caffe.ir import Net, View, param_shapes
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.options.finetune import TeacherOptions
from deeprebirth_caffe.relearn.matching import matching_blobs
from deeprebirth_caffe.relearn.teaching import plan_lesson
from deeprebirth_caffe.rewrite import Rewriter
from deeprebirth_caffe.rewrite.names import rename_changed_blobs
from deeprebirth_caffe.rewrite.pipeline import run

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }\n'
LABEL = 'layer { name: "labels" type: "Input" top: "label" input_param { shape { dim: 2 } } }\n'
TRAIN_DATA = """layer { name: "data" type: "Data" top: "data" top: "label" transform_param { scale: 0.5 }
  data_param { source: "nowhere" batch_size: 4 } }\n"""


def conv(name: str, bottom: str, top: str = "", count: int = 4, kernel: int = 1) -> str:
    """A convolution that keeps height and width."""
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{top or name}" convolution_param {{ '
        f"num_output: {count} kernel_size: {kernel} pad: {kernel // 2} }} }}\n"
    )


def plain(kind: str, bottom: str, top: str = "", more: str = "") -> str:
    """Another layer; without a top in place."""
    return f'layer {{ name: "{bottom}/{kind}" type: "{kind}" bottom: "{bottom}" top: "{top or bottom}" {more} }}\n'


def concat(top: str, *bottoms: str) -> str:
    """A Concat."""
    return f'layer {{ name: "{top}" type: "Concat" {" ".join(f"""bottom: "{b}" """ for b in bottoms)} top: "{top}" }}\n'


def inner(name: str, bottom: str, count: int = 5) -> str:
    """A classifier."""
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
        f"inner_product_param {{ num_output: {count} }} }}\n"
    )


def loss(name: str, bottom: str, more: str = "") -> str:
    """A loss over classes."""
    return (
        f'layer {{ name: "{name}" type: "SoftmaxWithLoss" bottom: "{bottom}" bottom: "label" top: "{name}" {more} }}\n'
    )


def softmax(name: str, bottom: str) -> str:
    """Probabilities."""
    return f'layer {{ name: "{name}" type: "Softmax" bottom: "{bottom}" top: "{name}" }}\n'


def train(text: str) -> View:
    """The view of a student."""
    return Net.parse(text).view("TRAIN")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def teacher(text: str, without: str = "", **more: object) -> TeacherOptions:
    """A teacher in files here, with weights for all layers but one."""
    net = Net.parse(text)
    Path("teacher.prototxt").write_text(text)
    known = Net.parse(text.replace(TRAIN_DATA, DATA + LABEL))
    view = known.view("TEST")
    shapes = {layer.name: (layer.type, param_shapes(view, layer)) for layer in view.layers}
    arrays = [
        (name, kind, [np.zeros(shape, np.float32) for shape in found])
        for name, (kind, found) in shapes.items()
        if found and name != without
    ]
    write_caffemodel(Path("teacher.caffemodel"), net.header.name, arrays)
    return TeacherOptions(Path("teacher.prototxt"), Path("teacher.caffemodel"), **more)  # type: ignore[arg-type]


# ------------------------------------------------------------ heads

STUDENT = DATA + LABEL + conv("c", "data") + inner("aux", "c") + inner("ip", "c")
HEADS = STUDENT + loss("aux/loss", "aux", "loss_weight: 0.3") + loss("loss", "ip")


def heads(options: TeacherOptions, text: str) -> list[tuple[str, str, str, float]]:
    lesson, _ = plan_lesson(options, train(text))
    return [(one.name, one.student, one.teacher, one.weight) for one in lesson.heads]


def test_heads_of_one_name(folder: Path) -> None:
    text = (
        DATA + LABEL + conv("c", "data") + inner("a", "c") + inner("b", "c") + loss("aux/loss", "a") + loss("loss", "b")
    )
    assert heads(teacher(text), HEADS) == [("aux/loss", "aux", "a", pytest.approx(0.3)), ("loss", "ip", "b", 1.0)]


def test_heads_whose_scores_are_blobs_of_one_name(folder: Path) -> None:
    """As in a deploy net, which has the main head alone."""
    text = DATA + conv("c", "data") + inner("ip", "c") + softmax("prob", "ip")
    assert heads(teacher(text), HEADS) == [("loss", "ip", "ip", 1.0)]


def test_the_only_heads(folder: Path) -> None:
    text = DATA + conv("c", "data") + inner("other", "c")
    student = DATA + LABEL + conv("c", "data") + inner("ip", "c") + loss("loss", "ip")
    assert heads(teacher(text + softmax("prob", "other")), student) == [("loss", "ip", "other", 1.0)]
    assert heads(teacher(text), student) == [("loss", "ip", "other", 1.0)]
    with pytest.raises(RebirthError, match=r"^teacher.prototxt: none of its scores belongs to a head of the student"):
        heads(teacher(text), HEADS)


def test_a_student_without_losses(folder: Path) -> None:
    options = teacher(DATA + conv("c", "data") + inner("ip", "c") + softmax("prob", "ip"))
    bare = DATA + conv("c", "data") + inner("ip", "c")
    for text, name in ((bare, "ip"), (bare + softmax("prob", "ip"), "prob")):
        lesson, lines = plan_lesson(options, Net.parse(text).view("TEST"))
        assert [one.name for one in lesson.heads] == [name] and lesson.alpha == 1.0
        assert lines[0] == "teacher teacher.prototxt: the loss is 1 x divergence, T = 2"
    with pytest.raises(UsageError, match=r"--alpha 0.25 leaves a part to the net's own losses, and it has none"):
        plan_lesson(teacher(bare, alpha=0.25), Net.parse(bare).view("TEST"))


def test_a_head_that_counts_nothing_learns_nothing(folder: Path) -> None:
    options = teacher(HEADS)
    text = HEADS.replace("loss_weight: 0.3", "loss_weight: 0")
    assert [one[0] for one in heads(options, text)] == ["loss"]


def test_alpha(folder: Path) -> None:
    options = teacher(HEADS)
    assert plan_lesson(options, train(HEADS))[0].alpha == 0.5
    with pytest.raises(UsageError, match="--alpha 0 lets the teacher say nothing"):
        plan_lesson(teacher(HEADS, alpha=0.0), train(HEADS))
    lesson, lines = plan_lesson(teacher(HEADS, alpha=1.0), train(HEADS))
    assert lesson.alpha == 1.0 and "own losses" not in lines[0]


# ------------------------------------------------------------ the teacher's net


def test_only_what_is_asked_runs(folder: Path) -> None:
    """No losses, no labels, no head that the student does not have, and no rules for phases."""
    tail = 'layer { name: "t" type: "ReLU" bottom: "ip" top: "t" include { phase: TEST } }\n'
    alone = conv("c", "data").replace("convolution_param", "include { phase: TEST } convolution_param")
    other = conv("c", "data").replace("convolution_param", "include { phase: TRAIN } convolution_param")
    text = HEADS.replace(conv("c", "data"), other + alone)
    student = STUDENT + loss("loss", "ip")
    lesson, _ = plan_lesson(teacher(text + tail), train(student))
    assert [layer.name for layer in lesson.net.layers] == ["data", "c", "ip"]
    assert dict(lesson.inputs) == {"data": "data"} and lesson.asked == lesson.watched == ["ip"]
    assert [view.state.phase for view in lesson.net.views] == ["TEST"]


def test_data_of_another_name(folder: Path) -> None:
    lesson, _ = plan_lesson(teacher(HEADS.replace('"data"', '"pictures"')), train(HEADS))
    assert dict(lesson.inputs) == {"pictures": "data"}
    two = DATA + DATA.replace('"data"', '"more"') + concat("all", "data", "more")
    student = DATA + LABEL + conv("c", "data") + inner("ip", "c") + loss("loss", "ip")
    with pytest.raises(RebirthError, match=r'the teacher reads blob "more", and the student\'s data are data, label'):
        plan_lesson(teacher(two + conv("c", "all") + inner("ip", "c")), train(student))


def test_a_teacher_gets_pictures_as_large_as_the_students(folder: Path) -> None:
    """A train_val has no shapes of its own; a convolutional deploy net takes any size."""
    options = teacher(TRAIN_DATA + STUDENT.removeprefix(DATA + LABEL) + loss("loss", "ip") + loss("aux/loss", "aux"))
    lesson, lines = plan_lesson(options, train(HEADS))
    assert lesson.net.view("TEST").blobs["c"].shape == (2, 4, 8, 8)
    assert not any("another" in line for line in lines)  # an Input layer transforms nothing
    larger = HEADS.replace("dim: 8 dim: 8", "dim: 9 dim: 9")
    with pytest.raises(RebirthError, match=r"teacher.caffemodel: the shapes of 2 layers differ: aux wants 5x324"):
        plan_lesson(options, train(larger))


def test_other_means_are_told(folder: Path) -> None:
    body = STUDENT.removeprefix(DATA + LABEL) + loss("loss", "ip") + loss("aux/loss", "aux")
    options = teacher(TRAIN_DATA + body)
    net = Net.parse(TRAIN_DATA.replace("0.5", "0.25") + body)
    net.data[net.layers[0]] = (3, 8, 8)
    _, lines = plan_lesson(options, net.view("TRAIN"))
    assert lines[-1].startswith("the teacher's own data layer has another scale than the student's")


def test_what_does_not_fit(folder: Path) -> None:
    fewer = HEADS.replace("num_output: 5", "num_output: 6")
    with pytest.raises(RebirthError, match=r'scores "aux" are 2x5 and the teacher\'s "aux" 2x6; a teacher knows'):
        plan_lesson(teacher(fewer), train(HEADS))
    with pytest.raises(RebirthError, match=r"has nothing for layer c of teacher.prototxt; a teacher needs all"):
        plan_lesson(teacher(HEADS, without="c"), train(HEADS))
    with pytest.raises(RebirthError, match="no output of a rebirth layer of the student has a blob of its name"):
        plan_lesson(teacher(HEADS, match_blobs=True), train(HEADS))


# ------------------------------------------------------------ blobs

MODULE = (
    DATA
    + conv("one", "data", count=2)
    + plain("ReLU", "one")
    + conv("three", "data", count=3, kernel=3)
    + plain("ReLU", "three")
    + conv("five", "data", count=4, kernel=5)
    + plain("ReLU", "five")
    + concat("out", "one", "three", "five")
    + inner("ip", "out")
)


def matched(student: str, its: str = MODULE) -> list[str]:
    """The names of the blobs that are compared."""
    found = matching_blobs(Net.parse(student).view("TEST"), Net.parse(its).view("TEST"))
    assert all(mine.name == other.name for mine, other in found)
    return [mine.name for mine, _ in found]


def test_a_deep_net_is_matched_in_one_walk() -> None:
    """Each sum reads the one before it twice: there are 2^80 ways to the end."""
    tops = ["start", *(f"sum{index}" for index in range(80))]
    net = conv("start", "data") + "".join(
        f'layer {{ name: "{top}" type: "Eltwise" bottom: "{below}" bottom: "{below}" top: "{top}" }}\n'
        for below, top in pairwise(tops)
    )
    assert matched(DATA + net + inner("ip", tops[-1]), DATA + net + inner("ip", tops[-1])) == []
    reborn = net.replace('name: "start"', 'name: "start_merge"')
    assert matched(DATA + reborn + inner("ip", tops[-1]), DATA + net + inner("ip", tops[-1])) == [tops[-1]]


def reborn(*order: str, widths: tuple[int, ...]) -> str:
    """A module whose branches are these layers."""
    parts = [
        conv(name, "data", name if "merge" in name else "", count=width, kernel=3) + plain("ReLU", name)
        for name, width in zip(order, widths, strict=True)
    ]
    return DATA + "".join(parts) + concat("out", *order) + inner("ip", "out")


def test_the_same_net_has_no_rebirth_layers() -> None:
    assert matched(MODULE) == []


def test_a_join_stands_for_its_branches() -> None:
    text = MODULE.replace('name: "three" type', 'name: "three_merge" type')
    assert matched(text) == ["out"]
    aside = text + plain("Power", "three", "aside")  # somebody else reads the branch, too
    assert matched(aside) == ["three", "out"]


@pytest.mark.parametrize(
    ("order", "widths", "wanted"),
    [
        (("three_merge", "five"), (5, 4), True),  # one went to three, its neighbour
        (("one", "five_merge"), (2, 7), True),
        (("five_merge",), (9,), True),
        (("five", "three_merge"), (4, 5), False),  # the order is another
        (("three_merge", "one", "five"), (3, 2, 4), False),
        (("three", "five_merge"), (3, 6), False),  # one went to five, over three
        (("one", "three_merge2"), (2, 7), True),
    ],
)
def test_channels_in_another_order_are_not_compared(
    order: tuple[str, ...], widths: tuple[int, ...], wanted: bool
) -> None:
    assert ("out" in matched(reborn(*order, widths=widths))) is wanted


def test_behind_what_a_stage_absorbed() -> None:
    """A pool and LRN that the student does without: the blob they wrote is the rebirth layer's."""
    its = DATA + conv("c", "data") + plain("ReLU", "c")
    its += (
        plain("Pooling", "c", "p", "pooling_param { kernel_size: 2 stride: 2 }")
        + plain("LRN", "p", "n")
        + inner("ip", "n")
    )
    assert matched(DATA + conv("c_merge", "data", "n") + plain("ReLU", "n") + inner("ip", "n"), its) == ["n"]


def test_a_concat_in_front_of_a_pool_that_is_gone() -> None:
    its = MODULE.replace('bottom: "out" top: "ip"', 'bottom: "pool" top: "ip"')
    its = its.replace(
        'layer { name: "ip"',
        plain("Pooling", "out", "pool", "pooling_param { kernel_size: 1 }") + 'layer { name: "ip"',
        1,
    )
    mine = reborn("three_merge", "five_merge", widths=(5, 4)).replace('"out"', '"pool"')
    assert matched(mine, its) == ["pool"]


def test_dropout_and_folded_layers_are_left_out() -> None:
    text = MODULE.replace('name: "three" type', 'name: "three_fold" type')
    assert matched(text) == []
    its = DATA + conv("c", "data") + plain("Dropout", "c") + inner("ip", "c")
    assert matched(its.replace('name: "c" type', 'name: "c_merge" type'), its) == []


def test_sums_are_joins(folder: Path) -> None:
    its = (
        DATA + conv("a", "data", count=3) + 'layer { name: "s" type: "Eltwise" bottom: "a" bottom: "data" top: "s" }\n'
    )
    its += plain("ReLU", "s") + inner("ip", "s")
    text = its.replace('name: "a" type', 'name: "a_merge" type')
    assert matched(text, its) == ["s"]
    options = teacher(its, match_blobs=True, match_weight=0.5)
    lesson, lines = plan_lesson(options, Net.parse(text).view("TEST"))
    assert lesson.blobs == ("s",) and lesson.watched == ["ip", "s"]
    assert lines[-1] == "blobs compared: s" and "0.5 x blobs" in lines[0]
    # With --alpha 0 the blobs alone are compared.
    labelled = text + LABEL + loss("loss", "ip")
    only, _ = plan_lesson(teacher(its, match_blobs=True, alpha=0.0), train(labelled))
    assert only.heads == () and only.blobs == ("s",)


def test_blobs_of_another_shape_are_left_out(folder: Path) -> None:
    its = DATA + conv("a", "data") + conv("b", "a") + conv("d", "b") + inner("ip", "d")
    mine = DATA + conv("a_merge", "data", "a", 3) + conv("b_merge", "a", "b") + conv("d", "b") + inner("ip", "d")
    lesson, _ = plan_lesson(teacher(its, match_blobs=True), Net.parse(mine).view("TEST"))
    assert lesson.blobs == ("b",)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("googlenet28", "pool1/norm1 pool2/3x3_s2 inception_3a/output inception_3b/output inception_4a/output"),
        ("alexnet64", "pool1 pool2 pool5"),
        ("resnet64", "pool1"),
    ],
)
def test_nets_of_the_zoo(name: str, wanted: str) -> None:
    """The ends of what `convert` merges; a pool that went leaves its blob to what is in front of it."""
    built = zoo.build(name)
    original = Net.parse(built.train_val)
    for one in original.layers:
        if one.op is not None and one.op.data:
            original.data[one] = built.input_shape
    net = original.copy()
    rewriter = Rewriter(net)
    run(rewriter, passes_of(ConvertOptions(net=Path(), weights=None)))
    rename_changed_blobs(original, rewriter)
    found = matching_blobs(net.view("TRAIN"), original.view("TEST"))
    same = [mine.name for mine, its in found if mine.shape is not None and mine.shape[1:] == (its.shape or ())[1:]]
    assert same == wanted.split()
