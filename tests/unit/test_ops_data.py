"""Data layers: what their own fields say, what a record adds, and what stays unknown."""

from __future__ import annotations

import pytest
from google.protobuf import text_format

from deeprebirth_caffe import ops
from deeprebirth_caffe.ops import Datum, Shape
from deeprebirth_caffe.proto import caffe_pb2 as pb

RECORD = (3, 40, 50)


def shapes(type_name: str, body: str, tops: int = 2, datum: Datum | None = None) -> list[Shape]:
    layer = text_format.Parse(body, pb.LayerParameter())
    layer.name, layer.type = "data", type_name
    layer.top.extend(("data", "label", "third")[:tops])
    found = ops.op(type_name)
    assert found is not None
    return found.shapes(layer, [], datum=datum)


def test_data_has_the_records_size_or_the_crops() -> None:
    batch = "data_param { batch_size: 8 }"
    assert shapes("Data", batch, datum=RECORD) == [(8, 3, 40, 50), (8,)]
    assert shapes("Data", batch, tops=1, datum=RECORD) == [(8, 3, 40, 50)]
    crop = f"{batch} transform_param {{ crop_size: 32 }}"
    assert shapes("Data", crop, datum=RECORD) == [(8, 3, 32, 32), (8,)]
    # In today's form Caffe reads it in transform_param alone.
    assert shapes("Data", "data_param { batch_size: 8 crop_size: 32 }", datum=RECORD)[0] == (8, *RECORD)
    with pytest.raises(ops.ShapeError, match="crop_size 60 is larger than the image 40x50"):
        shapes("Data", f"{batch} transform_param {{ crop_size: 60 }}", datum=RECORD)


def test_data_without_its_source() -> None:
    batch = "data_param { batch_size: 8 }"
    with pytest.raises(ops.UnknownShape, match="--input-shape data=CHANNELS,HEIGHT,WIDTH"):
        shapes("Data", batch)
    with pytest.raises(ops.UnknownShape):  # a crop does not say how many channels
        shapes("Data", f"{batch} transform_param {{ crop_size: 32 mean_value: 128 }}")
    means = "mean_value: 1 mean_value: 2 mean_value: 3"
    assert shapes("Data", f"{batch} transform_param {{ crop_size: 32 {means} }}")[0] == (8, 3, 32, 32)
    with pytest.raises(ops.UnknownShape):
        shapes("Data", f"{batch} transform_param {{ {means} }}")
    assert shapes("Data", f"{batch} transform_param {{ crop_size: 9 force_gray: true }}")[0] == (8, 1, 9, 9)
    assert shapes("Data", f"{batch} transform_param {{ crop_size: 9 force_color: true }}")[0] == (8, 3, 9, 9)


def test_image_data_knows_its_colours() -> None:
    assert shapes("ImageData", "", datum=RECORD) == [(1, 3, 40, 50), (1,)]
    sized = "image_data_param { batch_size: 2 new_height: 9 new_width: 8 is_color: false }"
    assert shapes("ImageData", sized) == [(2, 1, 9, 8), (2,)]
    assert shapes("ImageData", f"{sized} transform_param {{ crop_size: 4 }}")[0] == (2, 1, 4, 4)
    assert shapes("ImageData", "transform_param { crop_size: 4 }")[0] == (1, 3, 4, 4)
    with pytest.raises(ops.UnknownShape):
        shapes("ImageData", "")


def test_window_data_has_the_crops_size() -> None:
    body = "window_data_param { batch_size: 2 } transform_param { crop_size: 7 %s }"
    assert shapes("WindowData", body % "", datum=RECORD) == [(2, 3, 7, 7), (2,)]
    means = "mean_value: 1 mean_value: 2 mean_value: 3"
    assert shapes("WindowData", body % means)[0] == (2, 3, 7, 7)
    with pytest.raises(ops.UnknownShape):
        shapes("WindowData", body % "mean_value: 1")


def test_hdf5_data_wants_a_shape_a_top() -> None:
    body = "hdf5_data_param { batch_size: 5 }"
    assert shapes("HDF5Data", body, datum={"data": (2, 3), "label": ()}) == [(5, 2, 3), (5,)]
    assert shapes("HDF5Data", body, tops=1, datum=(2, 3)) == [(5, 2, 3)]
    with pytest.raises(ops.UnknownShape, match='"label"'):
        shapes("HDF5Data", body, datum=(2, 3))
    with pytest.raises(ops.UnknownShape, match="--input-shape data="):
        shapes("HDF5Data", body)


def test_input_shapes() -> None:
    body = "input_param { shape { dim: 2 dim: 3 } shape { dim: 0 } }"
    assert shapes("Input", body) == [(2, 3), (0,)]
    assert shapes("Input", "", tops=1, datum=RECORD) == [(1, *RECORD)]
    with pytest.raises(ops.UnknownShape, match="input_param"):
        shapes("Input", "")


def test_a_record_has_three_axes() -> None:
    with pytest.raises(ops.ShapeError, match="channels, height, width"):
        shapes("Data", "data_param { batch_size: 8 }", datum=(40, 50))
    with pytest.raises(ops.ShapeError, match="batch_size"):
        shapes("Data", "", datum=RECORD)
    assert shapes("Data", "data_param { batch_size: 8 }", datum={"data": RECORD})[0] == (8, *RECORD)


def test_what_depends_on_code_or_data_is_unknown() -> None:
    found = ops.op("Python")
    assert found is not None
    layer = text_format.Parse('name: "p" top: "x" python_param { module: "m" layer: "L" }', pb.LayerParameter())
    with pytest.raises(ops.UnknownShape, match=r"Python code \(m\.L\)") as caught:
        found.shapes(layer, [(1,)])
    assert caught.value.at_load is None
    found = ops.op("Filter")
    assert found is not None
    layer = text_format.Parse('name: "f" type: "Filter" top: "x" top: "y"', pb.LayerParameter())
    with pytest.raises(ops.UnknownShape, match="depends on the data") as caught:
        found.shapes(layer, [(4, 2), (4, 3), (4,)])
    assert caught.value.at_load == [(4, 2), (4, 3)]
