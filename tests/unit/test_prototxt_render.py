"""What a changed net looks like: the edit and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deeprebirth_caffe.formats.prototxt import LayerSource, NetSource, format_message, parse_net, parse_solver
from deeprebirth_caffe.formats.prototxt.scalars import format_float
from deeprebirth_caffe.proto import caffe_pb2 as pb

Layers = list[tuple[pb.LayerParameter, LayerSource | None]]


def clone(message: pb.LayerParameter) -> pb.LayerParameter:
    return pb.LayerParameter.FromString(message.SerializePartialToString())


def layers(source: NetSource) -> Layers:
    return [(clone(layer.message), layer) for layer in source.layers]


def edited(text: str, change: Callable[[pb.LayerParameter], object]) -> str:
    """The text after a change of its only layer."""
    source = parse_net(text)
    [(message, origin)] = layers(source)
    change(message)
    out = source.render(source.header, [(message, origin)])
    [read] = parse_net(out).layers
    assert read.message == message
    return out


CONV = """\
layer {
  name: 'c'  # the name
  type: "Convolution"
  bottom: "a"
  bottom: "b"  # second
  bottom: "c"
  # learning rates
  param { lr_mult: 1. }   # w
  param { lr_mult: 2.0 decay_mult: 0 }
  convolution_param: {
    num_output: 0x40
    fork: 3
    kernel_size: 3; kernel_size: 5
    weight_filler { type: "xavier" }
  }
}
"""


def set_scalars(layer: pb.LayerParameter) -> None:
    layer.name = "it's"
    layer.param[0].lr_mult = 0.1
    layer.convolution_param.num_output = 32
    layer.convolution_param.kernel_size[1] = 7


def cut_fields(layer: pb.LayerParameter) -> None:
    del layer.bottom[1]
    del layer.param[0]
    layer.convolution_param.ClearField("weight_filler")
    del layer.convolution_param.kernel_size[0]


def add_fields(layer: pb.LayerParameter) -> None:
    layer.top.append("t")
    layer.bottom.append("d")
    layer.param[0].decay_mult = 3
    layer.param.add(lr_mult=4)
    layer.convolution_param.pad[:] = [2, 3]
    layer.convolution_param.stride.append(2)
    layer.convolution_param.weight_filler.std = 0.01
    layer.convolution_param.bias_filler.type = "constant"
    layer.include.add(phase=pb.TRAIN)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            set_scalars,
            CONV.replace("'c'", "'it\\'s'")
            .replace("1. }", "0.1 }")
            .replace("0x40", "32")
            .replace("size: 5", "size: 7"),
        ),
        (
            cut_fields,
            CONV.replace('  bottom: "b"  # second\n', "")
            .replace("  param { lr_mult: 1. }   # w\n", "")
            .replace('    weight_filler { type: "xavier" }\n', "")
            .replace("kernel_size: 3; kernel_size: 5", "kernel_size: 5"),
        ),
        (
            add_fields,
            CONV.replace('  bottom: "c"\n', '  bottom: "c"\n  bottom: "d"\n  top: "t"\n')
            .replace("1. }", "1. decay_mult: 3 }")
            .replace(
                "decay_mult: 0 }\n",
                "decay_mult: 0 }\n  param {\n    lr_mult: 4\n  }\n  include {\n    phase: TRAIN\n  }\n",
            )
            .replace("0x40\n", "0x40\n    pad: 2\n    pad: 3\n")
            .replace("size: 5\n", "size: 5\n    stride: 2\n")
            .replace(
                '"xavier" }\n',
                '"xavier" std: 0.01 }\n    bias_filler {\n      type: "constant"\n    }\n',
            ),
        ),
    ],
)
def test_only_what_differs_changes(change: Callable[[pb.LayerParameter], None], expected: str) -> None:
    assert edited(CONV, change) == expected
    windows = edited(CONV.replace("\n", "\r\n"), change)
    assert windows == expected.replace("\n", "\r\n")


@pytest.mark.parametrize(
    ("text", "change", "expected"),
    [
        # a block on one line stays on one line
        ('layer { name: "a" }', lambda m: m.bottom.append("x"), 'layer { name: "a" bottom: "x" }'),
        ('layer{name:"a"}', lambda m: m.bottom.append("x"), 'layer{name:"a" bottom: "x"}'),
        ("layer{}", lambda m: m.bottom.append("x"), 'layer{ bottom: "x" }'),
        ("layer { }", lambda m: m.bottom.append("x"), 'layer { bottom: "x" }'),
        ("layer {\n}", lambda m: m.bottom.append("x"), 'layer {\n  bottom: "x"\n}'),
        ("layer { # c\n}", lambda m: m.bottom.append("x"), 'layer { # c\n  bottom: "x"\n}'),
        ('layer {\n\ttop: "t"\n}', lambda m: m.bottom.append("x"), 'layer {\n\tbottom: "x"\n\ttop: "t"\n}'),
        ('layer { top: "t" }', lambda m: m.bottom.append("x"), 'layer { bottom: "x" top: "t" }'),
        ('layer {top:"t"}', lambda m: m.bottom.append("x"), 'layer { bottom: "x" top:"t"}'),
        # nothing grows together when a field between goes
        ('layer { a: 1 top: "t"b: 2 }', lambda m: m.ClearField("top"), "layer { a: 1 b: 2 }"),
        ("layer { x { }phase: TEST b: 2 }", lambda m: m.ClearField("phase"), "layer { x { } b: 2 }"),
        ('layer{top:"t",name:"n",}', lambda m: m.ClearField("top"), 'layer{name:"n",}'),
        ('layer{top:"t",name:"n",}', lambda m: m.ClearField("name"), 'layer{top:"t",}'),
        ('layer { top: "t" }', lambda m: m.ClearField("top"), "layer { }"),
        ("layer {\n  top: 't'\n}", lambda m: m.ClearField("top"), "layer {\n}"),
        # short lists
        ("layer { bottom: ['a' , \"b\"] }", lambda m: m.bottom.__setitem__(0, "x"), "layer { bottom: ['x' , \"b\"] }"),
        ("layer { bottom: ['a', \"b\"] }", lambda m: m.bottom.append("x"), 'layer { bottom: [\'a\', "b", "x"] }'),
        ("layer { bottom: ['a', \"b\"] }", lambda m: m.bottom.pop(0), 'layer { bottom: ["b"] }'),
        ("layer { bottom: ['a', \"b\"] }", lambda m: m.ClearField("bottom"), "layer { }"),
        (
            "layer { param: [{lr_mult:1 f: 2}, <>] }",
            lambda m: (m.param.add(lr_mult=3), setattr(m.param[0], "lr_mult", 5)),
            "layer { param: [{lr_mult:5 f: 2}, <>, { lr_mult: 3 }] }",
        ),
        # joined strings, separated signs
        ('layer { name: "a" # 1\n "b" }', lambda m: setattr(m, "name", "c"), 'layer { name: "c" }'),
        ("layer { loss_weight: - 1 }", lambda m: m.loss_weight.__setitem__(0, 2), "layer { loss_weight: 2 }"),
        # in front of all others: the values move through the lines
        (
            'layer { bottom: "a" bottom: "b" }',
            lambda m: m.bottom.insert(0, "x"),
            'layer { bottom: "x" bottom: "a" bottom: "b" }',
        ),
    ],
)
def test_single_edits(text: str, change: Callable[[pb.LayerParameter], object], expected: str) -> None:
    assert edited(text, change) == expected


NET = """\
# The file's own comment.
layer {
  name: "a"
}
# about b
# and more
layer {
  name: "b"
} # behind b

# free-standing

# about c
layer { name: "c" }  # behind c
layer {
  name: "d"
}
"""


def kept(text: str, names: str) -> str:
    source = parse_net(text)
    return source.render(source.header, [(m, o) for m, o in layers(source) if m.name in names])


def test_a_layer_goes_with_its_comments_and_free_comments_stay() -> None:
    assert kept(NET, "abcd") == NET
    assert kept(NET, "acd") == NET.replace('# about b\n# and more\nlayer {\n  name: "b"\n} # behind b\n', "")
    assert kept(NET, "abd") == NET.replace('# about c\nlayer { name: "c" }  # behind c\n', "")
    assert kept(NET, "bcd") == NET.replace('layer {\n  name: "a"\n}\n', "")
    assert kept(NET, "") == "# The file's own comment.\n\n# free-standing\n"


SPACED = 'name: "n"\n\nlayer {\n  name: "a"\n}\n\nlayer {\n  name: "b"\n}\n\nlayer {\n  name: "c"\n}\n'


def test_blank_lines_do_not_pile_up() -> None:
    assert kept(SPACED, "ac") == SPACED.replace('layer {\n  name: "b"\n}\n\n', "")
    assert kept(SPACED, "bc") == SPACED.replace('layer {\n  name: "a"\n}\n\n', "")
    assert kept(SPACED, "ab") == SPACED.replace('\nlayer {\n  name: "c"\n}\n', "")
    assert kept(SPACED, "") == 'name: "n"\n'


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_new_layers_look_like_the_others(place: int, newline: str) -> None:
    new = pb.LayerParameter(name="new", type="ReLU", bottom=["x"])
    for text, blank in ((SPACED, "\n"), (SPACED.replace("\n\nlayer", "\nlayer"), "")):
        text = text.replace("  name", "\tname").replace("\n", newline)
        source = parse_net(text)
        wanted = layers(source)
        wanted.insert(place, (new, None))
        blocks = [f'layer {{\n\tname: "{name}"\n}}\n' for name in "abc"]
        blocks.insert(place, 'layer {\n\tname: "new"\n\ttype: "ReLU"\n\tbottom: "x"\n}\n')
        expected = f'name: "n"\n{blank}' + blank.join(blocks)
        assert source.render(source.header, wanted) == expected.replace("\n", newline)


def test_a_source_may_serve_twice_and_come_from_elsewhere() -> None:
    source = parse_net(SPACED.replace('"b"', '"b" # inside'))
    other = parse_net('layer { name: "z" fork: 1 }')
    a, b, _ = layers(source)
    copy = (clone(b[0]), b[1])
    copy[0].name = "b_merge"
    foreign = (clone(other.layers[0].message), other.layers[0])
    text = source.render(source.header, [a, copy, b, foreign])
    assert text == (
        'name: "n"\n\nlayer {\n  name: "a"\n}\n\nlayer {\n  name: "b_merge" # inside\n}\n\n'
        'layer {\n  name: "b" # inside\n}\n\nlayer { name: "z" fork: 1 }\n'
    )


def test_a_derived_layer_takes_the_place_of_its_source() -> None:
    source = parse_net(NET)
    a, b, c, d = layers(source)
    b[0].name = "b_merge"
    assert source.render(source.header, [a, b, c, d]) == NET.replace('"b"', '"b_merge"')


def test_order_may_change() -> None:
    source = parse_net(SPACED)
    a, b, c = layers(source)
    text = source.render(source.header, [c, a, b])
    assert [layer.message.name for layer in parse_net(text).layers] == ["c", "a", "b"]
    assert text == SPACED.replace('\nlayer {\n  name: "c"\n}\n', "").replace(
        '\nlayer {\n  name: "a"', '\nlayer {\n  name: "c"\n}\n\nlayer {\n  name: "a"'
    )


@pytest.mark.parametrize(
    ("text", "change", "expected"),
    [
        (SPACED, lambda h: setattr(h, "name", "m"), SPACED.replace('"n"', '"m"')),
        (SPACED, lambda h: h.ClearField("name"), SPACED.removeprefix('name: "n"\n')),
        (SPACED, lambda h: h.input.append("x"), SPACED.replace('"n"\n', '"n"\ninput: "x"\n')),
        ("# c\nlayer { }\n", lambda h: setattr(h, "name", "n"), '# c\nname: "n"\nlayer { }\n'),
        ("\ufefflayer { }", lambda h: setattr(h, "name", "n"), 'name: "n"\nlayer { }'),
        ("", lambda h: setattr(h, "name", "n"), 'name: "n"\n'),
        ("# c", lambda h: setattr(h, "name", "n"), '# c\nname: "n"\n'),
        ("state { }", lambda h: setattr(h, "name", "n"), 'name: "n"\nstate { }'),
        (
            'layer { } state { } fork: "3"',
            lambda h: setattr(h.state, "level", 3),
            'layer { } state { level: 3 } fork: "3"',
        ),
        (
            'input: "x" input_dim: 1 input_dim: 3 # s\nlayer { }',
            lambda h: h.input_dim.__setitem__(slice(None), [1, 3, 224]),
            'input: "x" input_dim: 1 input_dim: 3 # s\ninput_dim: 224\nlayer { }',
        ),
    ],
)
def test_header(text: str, change: Callable[[pb.NetParameter], object], expected: str) -> None:
    source = parse_net(text)
    change(source.header)  # the source remembers what its text says
    out = source.render(source.header, layers(source))
    assert out == expected
    assert parse_net(out).header == source.header


def test_layers_in_a_header_are_not_the_headers_business() -> None:
    source = parse_net(SPACED)
    source.header.layer.add(name="stray")
    assert source.render(source.header, layers(source)) == SPACED


def test_layers_in_a_list() -> None:
    text = 'name: "n" layer: [{ name: "a" }, { name: "b" f: 1 }] # end\n'
    source = parse_net(text)
    a, b = layers(source)
    assert source.render(source.header, [a, b]) == text
    assert source.render(source.header, [b]) == 'name: "n" \nlayer { name: "b" f: 1 } # end\n'
    b[0].name = "c"
    out = source.render(source.header, [a, b])
    assert out == 'name: "n" layer { name: "a" }\nlayer { name: "c" f: 1 } # end\n'


def test_layers_on_one_line() -> None:
    text = 'name: "n" layer{name:"a"}layer{name:"b"} # b\n'
    assert kept(text, "b") == 'name: "n" layer{name:"b"} # b\n'
    assert kept(text, "a") == 'name: "n" layer{name:"a"} # b\n'
    source = parse_net(text)
    a, b = layers(source)
    new = pb.LayerParameter(name="x")
    assert parse_net(source.render(source.header, [a, (new, None), b])).layers[1].message == new


def test_rendering_does_not_change_the_source() -> None:
    source = parse_net(CONV)
    message = source.layers[0].message
    message.name = "changed in place"
    assert "changed in place" in source.render(source.header, [(message, source.layers[0])])
    assert source.text() == CONV


def test_solver_edits() -> None:
    source = parse_solver('net: "a"\n# rate\nbase_lr: 0.010 # start\nfork: 3\nsolver_mode: GPU')
    solver = source.message
    solver.base_lr = 0.001
    solver.solver_mode = solver.CPU
    solver.max_iter = 90000
    assert source.render(solver) == (
        'net: "a"\n# rate\nbase_lr: 0.001 # start\nmax_iter: 90000\nfork: 3\nsolver_mode: CPU'
    )


def test_pretty_printing() -> None:
    layer = pb.LayerParameter(name='a "quoted"\n\x01 é', type="Data", bottom=["b"], loss_weight=[0.1, 1, 1e-5])
    layer.include.add(phase=pb.TEST)
    layer.transform_param.mean_value.extend([104, 117.25])
    layer.transform_param.mirror = True
    layer.data_param.backend = pb.DataParameter.LMDB
    layer.dummy_data_param.shape.add(dim=[1, 3])
    layer.blobs.add().double_data.extend([0.1, 2])
    layer.relu_param.SetInParent()
    assert format_message(layer, "    ") == (
        'name: "a \\"quoted\\"\\n\\001 é"\n'
        'type: "Data"\nbottom: "b"\n'
        "loss_weight: 0.1\nloss_weight: 1\nloss_weight: 1e-05\n"
        "blobs {\n    double_data: 0.1\n    double_data: 2\n}\n"
        "include {\n    phase: TEST\n}\n"
        "transform_param {\n    mirror: true\n    mean_value: 104\n    mean_value: 117.25\n}\n"
        "data_param {\n    backend: LMDB\n}\n"
        "dummy_data_param {\n    shape { dim: 1 dim: 3 }\n}\n"
        "relu_param {\n}\n"
    )
    assert format_message(pb.LayerParameter()) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (0.0, "0"),
        (-0.0, "-0"),
        (40000, "40000"),
        (1000000, "1000000"),
        (1e10, "1e+10"),
        (16777217, "16777216"),
        (0.0001, "0.0001"),
        (3.4028235e38, "3.4028235e+38"),
        (1e-45, "1.4013e-45"),
        (float("inf"), "inf"),
        (float("-inf"), "-inf"),
        (float("nan"), "nan"),
    ],
)
def test_floats_are_short(value: float, text: str) -> None:
    stored = pb.ParamSpec(lr_mult=value).lr_mult
    assert format_float(stored) == text
    assert format_message(pb.ParamSpec(lr_mult=value)) == f"lr_mult: {text}\n"
