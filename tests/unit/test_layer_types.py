"""Facts of layer types have one home, `ops`: nobody else lists types, so that a new one is added in one place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import deeprebirth_caffe
from deeprebirth_caffe.ir import Layer
from deeprebirth_caffe.ops import UNKNOWN, all_ops
from deeprebirth_caffe.ops.forks import FORKS
from deeprebirth_caffe.passes.patterns import is_pointwise, merges, sees_position
from deeprebirth_caffe.proto import caffe_pb2 as pb

ROOT = Path(deeprebirth_caffe.__file__).parent
TYPES = {kind.type for kind in all_ops()} | {kind.type for fork in FORKS for kind in fork.types}
FREE = ("ops", "zoo", "proto", "formats/legacy.py", "engines/caffe/worker.py")
"""The home of the facts; builders of nets; the names of old files; what runs in Caffe's own Python, without ours."""
TABLES = ("data", "engines", "to_onnx")
"""Where a table may say which code of theirs goes with a type."""


def lists(path: Path, tables: bool) -> Iterator[str]:
    """Every set, list, tuple and, but for tables, dictionary that names two layer types or more."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Set | ast.List | ast.Tuple):
            entries: list[ast.expr | None] = list(node.elts)
        elif isinstance(node, ast.Dict) and not tables:
            entries = list(node.keys)
        else:
            continue
        names = [entry.value for entry in entries if isinstance(entry, ast.Constant) and entry.value in TYPES]
        if len(names) > 1:
            yield f"{path.relative_to(ROOT)}:{node.lineno}: {', '.join(map(str, names))}"


def test_no_lists_of_types_outside_ops() -> None:
    """A comparison with one type is fine: such code knows that one type. A list of them is a trait that has no name."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        if not place.startswith(FREE):
            found += lists(path, place.startswith(TABLES))
    assert not found, "say it as a trait of `Op`"


def test_traits_do_not_contradict_each_other() -> None:
    for kind in all_ops():
        assert kind.linear or not kind.convolution, kind.type
        assert kind.tensor or not kind.linear, kind.type
        assert kind.data or not (kind.reads or kind.given), kind.type
        assert kind.loss or not kind.probability, kind.type
        assert kind.probability in ("", *(one.type for one in all_ops() if one.probabilities)), kind.type
        assert not kind.block or kind.block in pb.LayerParameter.DESCRIPTOR.fields_by_name, kind.type
        assert kind.channelwise or not (kind.pointwise or kind.affine), kind.type


def test_an_unknown_type_has_no_trait() -> None:
    layer = Layer(pb.LayerParameter(name="x", type="NobodyKnows", bottom=["a"], top=["b"]))
    assert layer.op is None and layer.traits is UNKNOWN and layer.own is None
    assert not (layer.fed or layer.loss or merges(layer) or sees_position(layer))


@pytest.mark.parametrize(("fork", "plain"), [("ReLU6", "Clip"), ("DepthwiseConvolution", "Convolution")])
def test_a_forks_type_has_the_traits_of_the_plain_one(fork: str, plain: str) -> None:
    theirs, ours = (Layer(pb.LayerParameter(name="x", type=kind, bottom=["a"], top=["b"])) for kind in (fork, plain))
    for name in ("pointwise", "channelwise", "convolution", "linear", "learned", "block", "affine", "moves"):
        assert getattr(theirs.traits, name) == getattr(ours.traits, name), name
    assert is_pointwise(theirs) == is_pointwise(ours) and merges(theirs)
