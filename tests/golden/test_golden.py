"""Text in, text out: each pass on small nets, character by character.

A case is a folder <pass>/<case> with in.prototxt and out.prototxt. The first line of in.prototxt may give the pass its
options: `# options: kernel=receptive`. To write out.prototxt anew after a wanted change, and then read the diff:

    REBIRTH_GOLDEN=update pytest tests/golden && git diff tests/golden
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from nets import PASSES, parse, rewrite

from deeprebirth_caffe.formats.prototxt import parse_net
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.nets.exactness import EXACT_NAMES
from deeprebirth_caffe.rewrite import AnyPass

HERE = Path(__file__).parent
CASES = sorted(path.parent for path in HERE.glob("*/*/in.prototxt"))
UPDATE = os.environ.get("REBIRTH_GOLDEN") == "update"
DATUM = (3, 16, 16)
"""One record of every data layer that needs a source."""


def make_pass(name: str, text: str) -> AnyPass:
    """The pass with the options of the first line."""
    options: dict[str, object] = {}
    first = text.split("\n", 1)[0]
    if first.startswith("# options: "):
        for word in first.removeprefix("# options: ").split():
            key, value = word.split("=")
            if key == "pattern":
                pattern, ratio = value.split(":")
                options["patterns"] = ((pattern, float(ratio)),)
            elif key == "reduce":
                options[key] = float(value)
            elif key == "layers":
                options[key] = frozenset(value.split(","))
            elif key == "parts":
                options[key] = tuple(part for part in value.split(",") if part != "bn")
            elif key == "ranks":
                pairs = (each.split(":") for each in value.split(";"))
                options[key] = {layer: tuple(map(int, ranks.split(","))) for layer, ranks in pairs}
            else:
                options[key] = {"true": True, "false": False}.get(value, value)
    return PASSES[name](**options)


def load(text: str, name: str) -> Net:
    return parse(text, weights=name in (*EXACT_NAMES, "tucker"), datum=DATUM)


@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_pass_writes_exactly(case: Path) -> None:
    name = case.parent.name
    text = (case / "in.prototxt").read_bytes().decode()
    one = make_pass(name, text)
    net = load(text, name)
    assert net.text() == text, "a net that no pass touched is written as it was read"
    rewrite(net, one)
    result = net.text()
    path = case / "out.prototxt"
    if UPDATE:
        path.write_bytes(result.encode())
    assert result == path.read_bytes().decode()
    assert [layer.message for layer in parse_net(result).layers] == [layer.param for layer in net.layers]


@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_pass_is_done_after_one_run(case: Path) -> None:
    name = case.parent.name
    one = make_pass(name, (case / "in.prototxt").read_text())
    text = (case / "out.prototxt").read_bytes().decode()
    net = load(text, name)
    outcome = rewrite(net, one)
    assert not outcome.rewrites
    assert net.text() == text


def test_every_pass_has_cases() -> None:
    assert {case.parent.name for case in CASES} == set(PASSES)
    assert all((case / "out.prototxt").is_file() for case in CASES)
