"""Upgrading a text: hard spellings, errors with their place, and nothing lost on random nets."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import upgrade_corpus as corpus
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprebirth_caffe.formats.legacy import V0_TYPES
from deeprebirth_caffe.formats.prototxt import PrototxtError, parse_net, parse_solver, read_net
from deeprebirth_caffe.formats.prototxt.fields import is_repeated
from deeprebirth_caffe.formats.prototxt.printer import present
from deeprebirth_caffe.formats.prototxt.scalars import format_scalar
from deeprebirth_caffe.formats.upgrade import upgrade_net, v0
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.proto import caffe_pb2 as pb

V1 = pb.V1LayerParameter


def read(text: str) -> pb.NetParameter:
    """What a reader gets; what it writes must say the same and be in today's form."""
    source = parse_net(text, "net")
    net = message_of(source)
    again = parse_net(source.text(), "net")
    assert again.forms == () and message_of(again) == net
    return net


def message_of(source: object) -> pb.NetParameter:
    net = pb.NetParameter()
    net.CopyFrom(source.header)  # type: ignore[attr-defined]
    net.layer.extend(layer.message for layer in source.layers)  # type: ignore[attr-defined]
    return net


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("layers { type: RELU }", 'layer {\n  type: "ReLU"\n}'),
        ("layers: < type: 18 >", 'layer {\n  type: "ReLU"\n}'),
        (
            "# net\n\n# first\nlayers {\n  # its rates\n  blobs_lr: 1 blobs_lr: 2.\n} # end\n",
            "# net\n\n# first\nlayer {\n  param {\n    lr_mult: 1\n  }\n  param {\n    lr_mult: 2\n  }\n} # end\n",
        ),
        (
            "layers {\r\n\tblobs_lr: [1, 2]\r\n\tweight_decay: 0 # none\r\n}\r\n",
            "layer {\r\n\tparam {\r\n\t\tlr_mult: 1\r\n\t\tdecay_mult: 0\r\n\t}\r\n"
            "\tparam {\r\n\t\tlr_mult: 2\r\n\t}\r\n}\r\n",
        ),
        ('\ufefflayers { name: "a" "b" } # x', 'layer {\n  name: "ab"\n} # x'),
        ("layers [{ type: RELU }, { type: TANH }]", 'layer {\n  type: "ReLU"\n}\nlayer {\n  type: "TanH"\n}'),
        ('layers { type: "Scale" scale_param { axis: 1 } }', 'layer {\n  type: "Scale"\n  scale_param { axis: 1 }\n}'),
        ("layers { } foo: 3 # bar", "layer {\n} foo: 3 # bar"),
    ],
)
def test_spellings(old: str, new: str) -> None:
    assert parse_net(old).text() == new
    read(old)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("\n layer { } layers { }", "net:2:2: this file has both 'layers' and 'layer'"),
        ("layers: 3", "net:1:9: 'layers' takes a block"),
        ("layers { type: 77 }", "net:1:16: type: '77' is not one of LayerType's values"),
        ("\nlayers { blobs_lr: x }", "net:2:20: blobs_lr: expected a number"),
        ("layers { param { lr_mult: 1 } }", "net:1:16: 'param' takes a single value"),
        ('layers { layer { type: "gone" name: "g" } }', 'net:1:1: layer "g" the V0 form has no layer type "gone"'),
        ('layers { layer { type: "relu" } bottom: "x" }', 'reads blob "x", which no layer before it puts out'),
        ('input: "a" input: "b" input_dim: 3 layers { }', "net:1:1: 2 x input, but 1 x input_dim"),
        ("layers { input_param: 3 }", "net:1:1: in today's form of this layer"),
    ],
)
def test_errors_name_the_place_in_the_old_text(text: str, error: str) -> None:
    with pytest.raises(PrototxtError, match=re.escape(error)):
        parse_net(text, "net")


def test_solver_with_two_types() -> None:
    with pytest.raises(PrototxtError, match=r"s:2:1: this solver has both"):
        parse_solver('type: "SGD"\nsolver_type: SGD', "s")


def test_input_without_a_shape_stays_in_the_header() -> None:
    source = parse_net('input: "data" # later\nlayers { type: RELU bottom: "data" top: "a" }')
    assert list(source.header.input) == ["data"]
    assert source.text().startswith('input: "data" # later\nlayer {\n  type: "ReLU"\n')
    assert source.notes == ()
    old = parse_net('input: "data"\nlayers { layer { type: "relu" } bottom: "data" top: "a" }')
    assert list(old.header.input) == ["data"] and old.notes == ()


def test_input_behind_the_layers_comes_in_front() -> None:
    text = '# net\n\n# a\nlayers { type: RELU bottom: "d" top: "a" }\ninput: "d" # d\ninput_shape { dim: 3 }\n'
    source = parse_net(text)
    assert [layer.message.type for layer in source.layers] == ["Input", "ReLU"]
    assert source.layers[0].where == "<text>:5:1"
    assert source.text().startswith('# net\n\nlayer {\n  name: "input"\n  type: "Input"\n  top: "d"\n')
    assert "}\n# a\nlayer {\n" in source.text()
    read(text)


def test_a_net_is_read_changed_and_written() -> None:
    text = 'name: "n"\n# one\nlayers {\n  name: "a" # it\n  type: RELU\n  bottom: "x"\n  top: "a"\n}\n'
    net = Net.parse('input: "x"\ninput_dim: [1, 2, 3, 4]\n' + text)
    assert [layer.type for layer in net.layers] == ["Input", "ReLU"]
    net.layers[1].param.name = "b"
    written = net.text()
    assert "# one\nlayer {\n" in written and 'name: "b"' in written
    assert 'type: "ReLU"' in written


def test_unknown_fields_stay_with_their_layer(tmp_path: Path) -> None:
    path = tmp_path / "net"
    path.write_bytes(b'layers {\n type: RELU\n relu_param { new: 1 }\n own { x: "\\351" }\n}\nlayers { type: BN }\n')
    source = read_net(path)
    assert [layer.unknown for layer in source.layers] == [["relu_param.new", "own"], []]
    assert len(source.notes) == 3
    assert source.text().encode(errors="surrogateescape").count(b'own { x: "\\351" }') == 1


def test_a_forks_value_of_a_known_field_stays() -> None:
    text = "layers { type: CONVOLUTION blobs_lr: [1, # one\n2] convolution_param { num_output: 3 engine: MKLDNN } }"
    [layer] = parse_net(text).layers
    assert layer.unknown == ["convolution_param.engine"]
    assert "engine: MKLDNN" in parse_net(text).text()


def test_places_of_unknown_fields_are_those_of_the_old_text() -> None:
    source = parse_net('input: "a" input_dim: [1, 2, 3, 4]\nlayers { blobs_lr: 1\n new: 3 }\nalien: 3', "net")
    assert [layer.where for layer in source.layers] == ["net:1:1", "net:2:1"]
    assert source.layers[1].where_of("new") == source.layers[1].where_type() == "net:2:1"
    assert source.where_of("alien") == "net:4:1"


@pytest.mark.parametrize(
    "text",
    [
        'layers { layer { type: "relu" } } # one\n, # two\nlayers { type: RELU } # three\n;',
        'input: "a" layers { layer { type: "padding" } top: "b" bottom: "a" } # one\n, layers { }',
    ],
)
def test_separators_on_lines_of_their_own(text: str) -> None:
    read(text)


@pytest.mark.parametrize(
    ("block", "inside"),
    [
        ('layer { type: "conv" weight_filler { name: 1 } }', "convolution_param.weight_filler.name"),
        ('layer { type: "relu" own: 1 } other: 2', "own"),
        (
            "type: CONVOLUTION convolution_param { weight_filler { own: 1 } num_output: 3 }",
            "convolution_param.weight_filler.own",
        ),
        ("include { phase: TRAIN } include { own: 1 }", "include.own"),
    ],
)
def test_unknown_fields_stay_in_their_block(block: str, inside: str) -> None:
    [layer] = parse_net(f"layers {{ {block} }}").layers
    assert inside in layer.unknown
    assert "other" not in block or "other" in layer.unknown


def test_an_unknown_field_of_a_shape_stays_in_it() -> None:
    [layer, _] = parse_net('input: "a" input_shape { dim: 3 own: 1 } layers { }').layers
    assert layer.unknown == ["input_param.shape.own"]


# ---------------------------------------------------------------- random nets


class Writer:
    """Writes a message the way people do: fields in any order, on one line or many, comments anywhere."""

    def __init__(self, rng: random.Random, strange: bool) -> None:
        self.rng = rng
        self.strange = strange
        self.comments = 0

    def comment(self) -> str:
        self.comments += 1
        return f"# c{self.comments}" + self.rng.choice(["", ' "q', " } {", " layers {"])

    def fields(self, message: Message, depth: int, extra: list[str]) -> str:
        parts: list[list[str]] = []
        for field, values in present(message):
            texts: list[str] = []
            scalars = field.message_type is None
            if scalars and is_repeated(field.descriptor) and len(values) > 1 and self.rng.random() < 0.2:
                items = ""
                for value in values:
                    if items:
                        items += ", " if self.rng.random() < 0.7 else f", {self.comment()}\n"
                    items += format_scalar(field.descriptor, value)
                texts.append(f"{field.name}: [{items}]")
            else:
                for value in values:
                    if scalars:
                        texts.append(f"{field.name}: {format_scalar(field.descriptor, value)}")
                    else:
                        texts.append(f"{field.name} {self.block(value, depth)}")
            parts.append(texts)
        parts.extend([text] for text in extra)
        out = ""
        while parts:  # the values of one field keep their order
            chosen = self.rng.choice(parts)
            indent = "  " * depth
            style = self.rng.random()
            if style < 0.15:
                out += f"\n{indent}{self.comment()}"
            if style < 0.8:
                out += f"\n{indent}{chosen.pop(0)}"
            else:
                out += f" {chosen.pop(0)}"
            if self.rng.random() < 0.05:
                out += self.rng.choice([",", ";"])
            if self.rng.random() < 0.2:
                out += f" {self.comment()}\n{indent}"
            parts = [one for one in parts if one]
        return out

    def block(self, message: Message, depth: int) -> str:
        begin, end = self.rng.choice(["{}", "{}", "{}", "<>"])
        head = f" {self.comment()}\n" if self.rng.random() < 0.05 else ""
        extra = [f"alien{self.rng.randrange(9)}: 7"] if self.strange and self.rng.random() < 0.1 else []
        tail = f"\n{'  ' * depth}{self.comment()}\n" if self.rng.random() < 0.05 else self.rng.choice([" ", "\n"])
        return f"{begin}{head}{self.fields(message, depth + 1, extra)}{tail}{end}"

    def net(self, net: pb.NetParameter) -> str:
        text = f"{self.comment()}\n" if self.rng.random() < 0.5 else ""
        return text + self.fields(net, 0, ["alien: 1"] if self.strange else []).lstrip() + "\n"


def random_net(rng: random.Random, form: str) -> pb.NetParameter:
    net = pb.NetParameter(name="n", force_backward=True)
    if rng.random() < 0.5:
        net.input.extend(["in", "in2"][: rng.randint(1, 2)])
        net.input_dim.extend(range(4 * len(net.input))) if rng.random() < 0.5 else [
            net.input_shape.add(dim=[1, 2]) for _ in net.input
        ]
    if form == "V0":  # which has no shapes and lets layers read only what is there
        del net.input_shape[:]
        if net.input:
            net.input_dim[:] = range(4 * len(net.input))
    for _ in range(rng.randint(1, 4)):
        layer = net.layers.add()
        if form == "V1":
            names = rng.sample(corpus.V1_FIELDS, rng.randint(1, 8))
            corpus.fill(layer, [name for name in names if name != "blobs"])
            if rng.random() < 0.5:
                layer.type = rng.choice(list(corpus.HOMES))
                corpus.fill(getattr(layer, corpus.HOMES[layer.type]))
        else:
            kind = rng.choice(list(V0_TYPES))
            names = [name for name, (_, homes) in v0.RULES.items() if kind in homes or "" in homes]
            names += ["name", "blobs_lr", "weight_decay", "num_output"]
            corpus.fill(layer.layer, rng.sample(names, rng.randint(1, len(names)))).type = kind
            layer.top.append("t")
    return net


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**48), st.sampled_from(["V0", "V1"]), st.booleans())
def test_random_nets_lose_no_field(seed: int, form: str, strange: bool) -> None:
    rng = random.Random(seed)
    net = random_net(rng, form)
    writer = Writer(rng, strange)
    text = writer.net(net)
    new = parse_net(text).text()
    upgrade_net(net)
    mine = read(text)
    assert mine.SerializeToString(deterministic=True) == net.SerializeToString(deterministic=True)
    assert len(re.findall(r"\balien\d?: ", new)) == len(re.findall(r"\balien\d?: ", text))
