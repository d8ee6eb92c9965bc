"""Old files in, today's out, character by character: the comments in front of layers stay.

To write the *.today.prototxt anew after a wanted change, and then read the diff:

    REBIRTH_GOLDEN=update pytest tests/golden && git diff tests/golden
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deeprebirth_caffe.formats.prototxt import parse_net, parse_solver, read_net, read_solver

HERE = Path(__file__).parent / "upgrade"
UPDATE = os.environ.get("REBIRTH_GOLDEN") == "update"


def check(new: str, path: Path) -> None:
    golden = path.with_name(f"{path.stem}.today.prototxt")
    if UPDATE:
        golden.write_bytes(new.encode())
    assert new == golden.read_bytes().decode()


@pytest.mark.parametrize("name", ["v0", "v1"])
def test_net(name: str) -> None:
    path = HERE / f"{name}.prototxt"
    source = read_net(path)
    check(source.text(), path)
    assert parse_net(source.text()).forms == ()
    assert source.render(source.header, [(layer.message, layer) for layer in source.layers]) == source.text()


def test_places_are_those_of_the_old_file() -> None:
    path = HERE / "v1.prototxt"
    lines = path.read_text().splitlines()
    for layer in read_net(path).layers[1:]:
        line = int(layer.where.rsplit(":", 2)[1])
        block = "\n".join(lines[line - 1 : line + 3])
        assert block.startswith("layers") and f'name: "{layer.message.name}"' in block


def test_solver() -> None:
    path = HERE / "solver.prototxt"
    source = read_solver(path)
    check(source.text(), path)
    assert source.message.type == "AdaGrad"
    assert source.forms == ("solver_type",)
    assert source.unknown == ["fork_field"]
    assert source.where("type") == f"{path}:3:1"
    assert parse_solver(source.text()).forms == ()
