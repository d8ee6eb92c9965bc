"""Fields that the schema does not have: their values, their places, and taking them out of a text."""

from __future__ import annotations

from deeprebirth_caffe.formats.prototxt import parse_net
from deeprebirth_caffe.proto import caffe_pb2 as pb

TEXT = """name: "n"
default_forward_type: FLOAT16  # half
# the pool
layer {
  name: "p" type: "Pooling"
  pooling_param {
    kernel_size: 2  # two
    ceil_mode: false  # floor
    engine: MKL2017
  }
  some_param { order: [0, -2] order: 0x10 deep { word: UP text: 'a' "b" real: 1.5f } }
  empty_param {}
  engine: "MKL2017"
}
"""


def test_values_by_dotted_path() -> None:
    [layer] = parse_net(TEXT).layers
    assert dict(layer.extra) == {
        "pooling_param.ceil_mode": (False,),
        "pooling_param.engine": ("MKL2017",),
        "some_param": (),
        "some_param.order": (0, -2, 16),
        "some_param.deep": (),
        "some_param.deep.word": ("UP",),
        "some_param.deep.text": ("ab",),
        "some_param.deep.real": (1.5,),
        "empty_param": (),
        "engine": ("MKL2017",),
    }
    assert parse_net('layer { name: "x" }').layers[0].extra == {}


def test_places() -> None:
    net = parse_net(TEXT, "n.prototxt")
    [layer] = net.layers
    assert layer.where_of("pooling_param.ceil_mode") == "n.prototxt:8:5"
    assert layer.where_of("some_param.deep.word") == "n.prototxt:11:3"
    assert layer.where_of("nothing") == "n.prototxt:4:1"
    assert layer.where_type() == "n.prototxt:5:13"
    assert net.where_of("default_forward_type") == "n.prototxt:2:1"
    assert dict(net.extra) == {"default_forward_type": ("FLOAT16",)}


def test_taking_fields_out_leaves_the_rest_alone() -> None:
    net = parse_net(TEXT)
    [layer] = net.layers
    less = layer.without(["pooling_param.ceil_mode", "some_param"])
    assert less.unknown == ["pooling_param.engine", "empty_param", "engine"]
    text = net.render(net.header, [(layer.message, less)])
    lines = [line for line in TEXT.splitlines() if "ceil_mode" not in line and "some_param" not in line]
    assert text.splitlines() == lines
    assert net.render(net.header, [(layer.message, layer)]) == TEXT


def test_taking_the_header_s_fields_out() -> None:
    net = parse_net(TEXT)
    text = net.render(net.header, [(layer.message, layer) for layer in net.layers], frozenset({"default_forward_type"}))
    assert text == TEXT.replace("default_forward_type: FLOAT16  # half\n", "")


def test_a_cut_beside_a_new_field() -> None:
    net = parse_net('layer { name: "p" type: "Pooling" pooling_param { kernel_size: 2 ceil_mode: false stride: 2 } }\n')
    [layer] = net.layers
    message = pb.LayerParameter()
    message.CopyFrom(layer.message)
    message.pooling_param.round_mode = pb.PoolingParameter.FLOOR
    text = net.render(net.header, [(message, layer.without(["pooling_param.ceil_mode"]))])
    assert "pooling_param { kernel_size: 2 stride: 2 round_mode: FLOOR }" in text


def test_a_cut_in_a_list_of_layers() -> None:
    net = parse_net('layer: [{ name: "a" odd: 1 }, { name: "b" odd: 2 }]\n')
    a, b = net.layers
    text = net.render(net.header, [(a.message, a.without(["odd"])), (b.message, b)])
    again = parse_net(text)
    assert [layer.unknown for layer in again.layers] == [[], ["odd"]]
