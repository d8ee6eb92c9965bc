"""Mutations of text and bytes that get past the first check: most keep the file's form and change what it says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from deeprebirth_caffe import ops
from deeprebirth_caffe.proto import caffe_pb2 as pb

TOKEN = re.compile(rb'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|#[^\n]*|[\w.+\-/]+|\s+|.', re.DOTALL)
NUMBERS = [
    *(b"0", b"1", b"-1", b"2", b"3", b"5", b"7", b"16", b"31", b"32", b"33", b"255", b"256", b"1000", b"65536"),
    *(b"2147483647", b"2147483648", b"4294967295", b"4294967296", b"-2147483648", b"9223372036854775807", b"1e400"),
    *(b"18446744073709551615", b"99999999999999999999999", b"0.5", b"-0.0", b"1e-45", b"1e38", b"nan", b"inf", b"-inf"),
    *(b"0x7fffffff", b"010", b"true", b"false", b"1.", b".5", b"1f", b"-", b"+"),
]
JUNK = [
    *(b"{", b"}", b"<", b">", b"[", b"]", b":", b";", b",", b"#", b'"', b"'", b"\\", b"\0", b"\r\n", b"\xef\xbb\xbf"),
    *(b"\xff\xfe", b"\xc3\x28", b'"\\"', b'"\\377"', b'"\\u12"', b"/*", b"//", b"\t", b"\x0b"),
]
VARINTS = [
    b"\xff" * 9 + b"\x01",
    b"\xff" * 10,
    b"\x80" * 20,
    b"\xff\xff\xff\xff\x07",
    b"\xff\xff\xff\xff\x0f",
    b"\x80\x00",
]


def _names() -> list[bytes]:
    found: set[str] = {entry.type for entry in ops.all_ops()}
    for message in pb.DESCRIPTOR.message_types_by_name.values():
        found.update(field.name for field in message.fields)
        for enum in message.enum_types:
            found.update(enum.values_by_name)
    found.update(("TRAIN", "TEST", "data", "label", "layer", "layers", "ceil_mode", "ReLU6", "Permute"))
    return [name.encode() for name in sorted(found)]


NAMES = _names()


def mutate_text(random: Random, seeds: Sequence[bytes]) -> bytes:
    """One to six mutations of a seed, most of them of whole tokens."""
    data = random.choice(seeds)
    if random.randrange(100) < 80:
        tokens = TOKEN.findall(data)
        for _ in range(1 + int(random.expovariate(0.8))):
            _change_tokens(random, tokens, seeds)
        data = b"".join(tokens)
    if random.randrange(100) < 25:
        data = mutate_bytes(random, [data], seeds)
    return data


def _change_tokens(random: Random, tokens: list[bytes], seeds: Sequence[bytes]) -> None:
    if not tokens:
        tokens.append(random.choice(JUNK))
    at = random.randrange(len(tokens))
    kind = random.randrange(14)
    if kind < 5:
        at = next((place for place in range(at, len(tokens)) if tokens[place].strip()), at)
        old = tokens[at]
        if old[:1].isdigit() or old[:1] == b"-":
            tokens[at] = random.choice(NUMBERS)
        elif old[:1] in (b'"', b"'"):
            others = [token for token in tokens if token[:1] == b'"']
            name = random.choice(others) if others and random.randrange(4) else b'"%s"' % random.choice(NAMES)
            tokens[at] = name
        else:
            tokens[at] = random.choice(NAMES) if random.randrange(3) else random.choice(tokens)
    elif kind == 5:
        del tokens[at : at + random.randint(1, 8)]
    elif kind == 6:
        tokens.insert(at, random.choice(JUNK + NUMBERS))
    elif kind == 7:
        chunk = tokens[at : at + random.randint(1, 60)]
        place = random.randrange(len(tokens) + 1)
        tokens[place:place] = chunk
    elif kind == 8:
        other = TOKEN.findall(random.choice(seeds))
        start = random.randrange(len(other) or 1)
        tokens[at:at] = other[start : start + random.randint(1, 60)]
    elif kind == 9:
        tokens[at:at] = [random.choice(NAMES), b": ", random.choice(NUMBERS), b" "]
    elif kind == 10:
        tokens[at:at] = [random.choice(NAMES), b" { ", random.choice(NAMES), b": ", random.choice(NUMBERS), b" } "]
    elif kind == 11:
        _layers(random, tokens)
    elif kind == 12 and random.randrange(8) == 0:
        depth = random.choice((40, 101, 1000, 20_000))
        opening = random.choice((b"layer {", b"a {", b"<", b"{", b"[", b"net_param {"))
        tokens.insert(at, opening * depth + (b"}" * depth if random.randrange(2) else b""))
    else:
        del tokens[random.randrange(len(tokens)) :]


def _layers(random: Random, tokens: list[bytes]) -> None:
    """Copies, moves or removes a whole layer."""
    starts = [i for i, token in enumerate(tokens) if token in (b"layer", b"layers")]
    if len(starts) < 2:
        return
    which = random.randrange(len(starts) - 1)
    begin, end = starts[which], starts[which + 1]
    chunk = tokens[begin:end]
    if random.randrange(3):
        del tokens[begin:end]
    if random.randrange(3):
        places = [i for i, token in enumerate(tokens) if token in (b"layer", b"layers")] or [0]
        at = random.choice(places)
        tokens[at:at] = chunk


def mutate_bytes(random: Random, seeds: Sequence[bytes], others: Sequence[bytes] = ()) -> bytes:
    """One to eight mutations that know nothing but bytes and varints."""
    data = bytearray(random.choice(seeds))
    for _ in range(1 + int(random.expovariate(0.6))):
        if not data:
            data += random.choice(others or seeds)
        at = random.randrange(len(data) or 1)
        # Lengths and names stand at the front of things, which is where damage goes deepest.
        if random.randrange(2):
            at = min(at, int(random.expovariate(0.02)))
        kind = random.randrange(9)
        if kind < 2:
            data[at : at + 1] = bytes([random.randrange(256)])
        elif kind == 2:
            data[at : at + 1] = bytes([(data[at] if at < len(data) else 0) ^ (1 << random.randrange(8))])
        elif kind == 3:
            data[at:at] = random.choice(VARINTS)
        elif kind == 4:
            del data[at : at + random.choice((1, 1, 2, 8, 64))]
        elif kind == 5:
            data[at:at] = data[at : at + random.choice((1, 4, 32, 200))]
        elif kind == 6:
            other = random.choice(others or seeds)
            start = random.randrange(len(other) or 1)
            data[at:at] = other[start : start + random.choice((2, 16, 100))]
        elif kind == 7:
            data[at : at + 4] = random.choice(VARINTS)[:4]
        else:
            del data[random.randrange(len(data) or 1) :]
    return bytes(data)
