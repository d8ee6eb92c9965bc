"""Random nets in random spellings, edited at random: the text says what it was told to, and keeps the rest.

Each case is made from one seed, so that a failure is a number to try again.
"""

from __future__ import annotations

import random
import string
from typing import Any

import pytest
from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor as Kind
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprebirth_caffe.formats.prototxt import (
    PrototxtError,
    format_message,
    parse_message,
    parse_net,
    parse_solver,
)
from deeprebirth_caffe.formats.prototxt.fields import is_repeated
from deeprebirth_caffe.formats.prototxt.scalars import format_scalar
from deeprebirth_caffe.proto import caffe_pb2 as pb

SEEDS = st.integers(0, 2**48)
SKIP = {"layers", "net_param", "train_net_param", "test_net_param", "layer", "solver_type"}  # old ones are upgraded


def same(a: Any, b: Any) -> bool:
    return bool(a.SerializePartialToString(deterministic=True) == b.SerializePartialToString(deterministic=True))


def scalar(rng: random.Random, field: Any) -> Any:
    if field.cpp_type == Kind.CPPTYPE_STRING:
        alphabet = rng.choice([string.ascii_letters, string.printable, "é漢\u2028\x01\"'\\\n#{}"])
        text = "".join(rng.choice(alphabet) for _ in range(rng.randrange(6)))
        return text.encode() if field.type == Kind.TYPE_BYTES else text
    if field.cpp_type == Kind.CPPTYPE_ENUM:
        return rng.choice([value.number for value in field.enum_type.values])
    if field.cpp_type == Kind.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if field.cpp_type in (Kind.CPPTYPE_FLOAT, Kind.CPPTYPE_DOUBLE):
        special = [0.0, -0.0, 1e-45, 3.4028234663852886e38, 0.1]
        return rng.choice([*special, rng.gauss(0, 1), float(rng.randrange(100)), 10 ** rng.uniform(-40, 38)])
    low, high = {
        Kind.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
        Kind.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
        Kind.CPPTYPE_UINT32: (0, 2**32 - 1),
        Kind.CPPTYPE_UINT64: (0, 2**64 - 1),
    }[field.cpp_type]
    return rng.choice([low, high, rng.randint(low, high), rng.randrange(9), rng.randrange(9)])


def mutate(rng: random.Random, message: Any, depth: int = 0) -> None:
    """Sets, changes, clears, lengthens and shortens a few fields."""
    fields = [f for f in message.DESCRIPTOR.fields if f.name not in SKIP or depth]
    used = [f for f, _ in message.ListFields()]
    for _ in range(rng.randrange(6 if depth == 0 else 4)):
        field = rng.choice(used if used and rng.random() < 0.6 else fields)
        if is_repeated(field):
            values = getattr(message, field.name)
            action = rng.randrange(4)
            if action == 0 and len(values):
                del values[rng.randrange(len(values))]
            elif field.message_type is not None:
                if action == 1 and len(values):
                    mutate(rng, rng.choice(values), depth + 1)
                elif depth < 4:
                    new = field.message_type._concrete_class()
                    mutate(rng, new, depth + 1)
                    kept = [type(new).FromString(v.SerializePartialToString()) for v in values]
                    kept.insert(rng.randrange(len(kept) + 1), new)
                    message.ClearField(field.name)
                    getattr(message, field.name).extend(kept)
            elif action == 1 and len(values):
                values[rng.randrange(len(values))] = scalar(rng, field)
            else:
                values.insert(rng.randrange(len(values) + 1), scalar(rng, field))
        elif rng.random() < 0.2:
            message.ClearField(field.name)
        elif field.message_type is not None:
            if depth < 4:
                getattr(message, field.name).SetInParent()
                mutate(rng, getattr(message, field.name), depth + 1)
        else:
            setattr(message, field.name, scalar(rng, field))
    if message.DESCRIPTOR.name == "ClipParameter":
        message.min, message.max = rng.random(), rng.random()


class Speller:
    """Writes messages with all the freedom the format leaves."""

    def __init__(self, rng: random.Random, newline: str) -> None:
        self.rng = rng
        self.newline = newline
        self.tidy = rng.random() < 0.4

    def gap(self, needed: bool = False) -> str:
        rng = self.rng
        if self.tidy:
            return " "
        choice = rng.randrange(8)
        if choice == 0:
            return self.newline * rng.randrange(1, 4) + " " * rng.randrange(5)
        if choice == 1:
            return f" # {rng.choice(['note', 'a: 1 }', '', '}{', chr(34)])}{self.newline}  "
        if choice < 4 and not needed:
            return ""
        return rng.choice([" ", "  ", "\t"])

    def value(self, field: Any, value: Any) -> str:
        text = format_scalar(field, value, self.rng.choice("\"'"))
        rng = self.rng
        if field.cpp_type == Kind.CPPTYPE_STRING and rng.random() < 0.2:
            return text + self.gap() + rng.choice(['""', "''"])
        if field.cpp_type == Kind.CPPTYPE_BOOL and rng.random() < 0.3:
            return rng.choice(["t", "True", "1"] if value else ["f", "False", "0"])
        integers = (Kind.CPPTYPE_INT32, Kind.CPPTYPE_UINT32, Kind.CPPTYPE_INT64)
        if field.cpp_type in integers and rng.random() < 0.3:
            sign = "-" + rng.choice(["", " "]) if value < 0 else ""
            return sign + rng.choice([hex, lambda v: f"0{v:o}", str])(abs(value))
        return text

    def fields(self, message: Any, indent: str) -> str:
        rng = self.rng
        out = []
        entries = [(f, v) for f, vs in message.ListFields() for v in (list(vs) if is_repeated(f) else [vs])]
        if rng.random() < 0.3:
            by_name: dict[str, list[Any]] = {}
            for f, v in entries:
                by_name.setdefault(f.name, []).append((f, v))
            names = [f.name for f, _ in entries]
            rng.shuffle(names)  # the order between names is free, that of one name is not
            entries = [by_name[name].pop(0) for name in names]
        at = 0
        while at < len(entries):
            field, value = entries[at]
            run = 1
            if is_repeated(field) and rng.random() < 0.3:
                while at + run < len(entries) and entries[at + run][0] is field and rng.random() < 0.8:
                    run += 1
                items = [self.one(f, v, indent) for f, v in entries[at : at + run]]
                colon = ":" if field.message_type is None or rng.random() < 0.5 else ""
                text = f"{field.name}{self.gap()}{colon}{self.gap()}[{f',{self.gap()}'.join(items)}]"
            elif field.message_type is not None:
                colon = rng.choice(["", "", ":"])
                text = f"{field.name}{self.gap()}{colon}{self.gap()}{self.one(field, value, indent)}"
            else:
                text = f"{field.name}:{self.gap()}{self.one(field, value, indent)}"
            at += run
            if rng.random() < 0.1:
                value = rng.choice(["3", "{ a: X }", "[1, 2]"])
                text += f"{self.newline}{indent}fork_field_{rng.randrange(9)}: {value}"
            if self.tidy and rng.random() < 0.2:
                text += rng.choice(["  # why", f"{self.newline}{self.newline}{indent}# alone{self.newline}"])
            if self.tidy and rng.random() < 0.2:
                text = f"# about it{self.newline}{indent}{text}"
            separator = "" if self.tidy else rng.choice(["", "", "", ",", ";", " ;"])
            out.append(indent + text + separator if self.tidy else text + separator + self.gap(needed=True))
        return self.newline.join(out) + self.newline if self.tidy else self.gap() + "".join(out)

    def one(self, field: Any, value: Any, indent: str) -> str:
        if field.message_type is None:
            return self.value(field, value)
        left, right = self.rng.choice(["{}", "{}", "<>"])
        if self.tidy:
            return f"{left}{self.newline}{self.fields(value, indent + '   ')}{indent}{right}"
        return f"{left}{self.gap()}{self.fields(value, indent)}{self.gap()}{right}"


def net_of(rng: random.Random) -> Any:
    net = pb.NetParameter()
    mutate(rng, net)
    for number in range(rng.randrange(6)):
        layer = net.layer.add(name=f"l{number}", type=rng.choice(["Convolution", "ReLU"]))
        for _ in range(rng.randrange(6)):
            mutate(rng, layer)
    return net


def spelled(rng: random.Random, net: Any) -> str:
    newline = rng.choice(["\n", "\r\n"])
    speller = Speller(rng, newline)
    text = speller.fields(net, "")
    return rng.choice(["", "", "\ufeff"]) + text


def clone(message: Any) -> Any:
    return type(message).FromString(message.SerializePartialToString())


@settings(max_examples=300, deadline=None)
@given(SEEDS)
def test_any_spelling_reads_as_its_message_and_writes_back(seed: int) -> None:
    rng = random.Random(seed)
    net = net_of(rng)
    text = spelled(rng, net)
    source = parse_net(text)
    assert source.text() == text.removeprefix("\ufeff")
    assert source.render(source.header, [(layer.message, layer) for layer in source.layers]) == source.text()
    read = clone(source.header)
    read.layer.extend(layer.message for layer in source.layers)
    assert same(read, net)


@settings(max_examples=500, deadline=None)
@given(SEEDS)
def test_edited_nets_say_what_they_were_told(seed: int) -> None:
    rng = random.Random(seed)
    source = parse_net(spelled(rng, net_of(rng)))
    header = clone(source.header)
    if rng.random() < 0.6:
        mutate(rng, header)
    layers = [(clone(layer.message), layer) for layer in source.layers]
    changed = []
    for message, layer in layers:
        fate = rng.randrange(6)
        if fate == 0:
            continue
        if fate == 1:
            mutate(rng, message)
        if fate == 2:
            changed.append((clone(message), None))
            mutate(rng, message)
        changed.append((message, layer))
        if fate == 3:
            copy = clone(message)
            copy.name += "_merge"
            changed.insert(rng.randrange(len(changed) + 1), (copy, layer))
    if rng.random() < 0.2:
        rng.shuffle(changed)
    text = source.render(header, changed)
    again = parse_net(text)
    assert same(again.header, header)
    assert len(again.layers) == len(changed)
    for layer, (message, origin) in zip(again.layers, changed, strict=True):
        assert same(layer.message, message)
        if origin is not None and origin.says(message):
            assert set(layer.unknown) == set(origin.unknown)
    for message, origin in changed:
        if origin is not None and origin.says(message):
            # (an item of a list stands there without its name)
            assert origin.render(message).removeprefix("layer ") in text
    # Once more without a change: nothing moves.
    assert again.render(again.header, [(layer.message, layer) for layer in again.layers]) == text


@settings(max_examples=200, deadline=None)
@given(SEEDS)
def test_there_and_back_again(seed: int) -> None:
    """A name changed and changed back leaves the text as it was."""
    rng = random.Random(seed)
    net = net_of(rng)
    text = format_message(net)
    source = parse_net(text)
    assert same(parse_message(text, pb.NetParameter), net)
    edited = [(clone(layer.message), layer) for layer in source.layers]
    for message, _ in edited:
        message.name += "x"
    there = parse_net(source.render(source.header, edited))
    back = [(clone(a.message), b) for a, b in zip(source.layers, there.layers, strict=True)]
    assert there.render(source.header, back) == text


@settings(max_examples=200, deadline=None)
@given(SEEDS)
def test_edited_solvers_say_what_they_were_told(seed: int) -> None:
    rng = random.Random(seed)
    solver = pb.SolverParameter()
    for _ in range(4):
        mutate(rng, solver)
    source = parse_solver(Speller(rng, "\n").fields(solver, ""))
    assert same(source.message, solver)
    mutate(rng, solver)
    assert same(parse_solver(source.render(solver)).message, solver)


@settings(max_examples=200, deadline=None)
@given(SEEDS)
def test_protobuf_reads_what_is_printed(seed: int) -> None:
    net = net_of(random.Random(seed))
    read = pb.NetParameter()
    text_format.Parse(format_message(net), read)
    assert same(read, net)


@settings(max_examples=1000, deadline=None)
@given(SEEDS)
def test_damaged_text_is_one_clear_error(seed: int) -> None:
    rng = random.Random(seed)
    text = spelled(rng, net_of(rng))
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(text) + 1)
        text = (
            text[:at]
            + rng.choice(["", "{", "}", "[", "]", '"', "#", "\\", "\0", ":", "9", "x", "-"])
            + text[at + rng.randrange(3) :]
        )
    try:
        source = parse_net(text, "net.prototxt")
    except PrototxtError as error:
        assert str(error).startswith("net.prototxt:")
        assert "\n" not in str(error)
    else:
        assert source.text() == text.removeprefix("\ufeff")


@given(st.text(max_size=200))
def test_any_text_at_all(text: str) -> None:
    try:
        parse_net(text)
    except PrototxtError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("depth", [90, 99, 101, 100_000])
def test_deep_nesting_is_refused_not_fatal(depth: int) -> None:
    text = "a { " * depth + "} " * depth
    if depth <= 100:
        assert parse_net(text).unknown == ["a"]
    else:
        with pytest.raises(PrototxtError, match="nested more than 100 deep"):
            parse_net(text)
