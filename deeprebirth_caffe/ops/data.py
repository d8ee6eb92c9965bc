"""Layers that bring data in or take it out, and Parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .base import BuffersFn, Datum, Op, Shape, ShapesFn, by, fail, no_buffers, unknown
from .memory import count

if TYPE_CHECKING:
    from ..proto import caffe_pb2 as pb


def _record(layer: pb.LayerParameter, datum: Datum | None) -> Shape | None:
    """The (C, H, W) of one record, if known."""
    if isinstance(datum, Mapping):
        datum = datum.get(layer.top[0]) if layer.top else None
    if datum is not None and len(datum) != 3:
        fail(layer, f"a record's shape is channels, height, width, got {by(datum)}")
    return datum


def _batch(layer: pb.LayerParameter, size: int) -> int:
    if size < 1:
        fail(layer, "batch_size must be given and positive")
    return size


def _image_channels(layer: pb.LayerParameter, record: Shape | None) -> int | None:
    """How many channels an image has; without a record as many as mean values (one goes for any number)."""
    p = layer.transform_param
    if record is not None and record[0] not in (1, 3):
        return record[0]
    if p.force_color != p.force_gray:  # decoding an encoded image; raw records of that kind do not need it
        return 3 if p.force_color else 1
    if record is not None:
        return record[0]
    return len(p.mean_value) if len(p.mean_value) > 1 else None


def _cropped(layer: pb.LayerParameter, size: tuple[int, int] | None) -> tuple[int, int] | None:
    """The height and width behind the crop. Caffe reads crop_size nowhere else, though old messages have it too."""
    crop = layer.transform_param.crop_size
    if not crop:
        return size
    if size is not None and crop > min(size):
        fail(layer, f"crop_size {crop} is larger than the image {by(size)}")
    return crop, crop


def _want(layer: pb.LayerParameter) -> str:
    return (
        "its image size is in its data source, which could not be read: "
        f"give --input-shape {layer.top[0]}=CHANNELS,HEIGHT,WIDTH"
    )


def _image_tops(
    layer: pb.LayerParameter, batch: int, channels: int | None, size: tuple[int, int] | None
) -> list[Shape]:
    if channels is None or size is None:
        unknown(layer, _want(layer))
    return [(batch, channels, *size), (batch,)][: len(layer.top)]


def _data(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    p = layer.data_param
    record = _record(layer, datum)
    size = _cropped(layer, None if record is None else (record[1], record[2]))
    return _image_tops(layer, _batch(layer, p.batch_size), _image_channels(layer, record), size)


def _image_data(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    p = layer.image_data_param
    record = _record(layer, datum)
    if (p.new_height == 0) != (p.new_width == 0):
        fail(layer, "new_height and new_width must be given together")
    size = None if record is None else (record[1], record[2])
    if p.new_height:
        size = p.new_height, p.new_width
    return _image_tops(layer, _batch(layer, p.batch_size), 3 if p.is_color else 1, _cropped(layer, size))


def _window_data(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    p = layer.window_data_param
    crop = layer.transform_param.crop_size
    if not crop:
        fail(layer, "crop_size must be given and positive")
    # The windows are warped to the crop, so the image's own size does not matter.
    record = _record(layer, datum)
    means = len(layer.transform_param.mean_value)
    channels = record[0] if record is not None else means if means > 1 else None
    return _image_tops(layer, _batch(layer, p.batch_size), channels, (crop, crop))


def _hdf5_data(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    batch = _batch(layer, layer.hdf5_data_param.batch_size)
    if datum is not None and not isinstance(datum, Mapping):
        datum = {layer.top[0]: datum}
    tops: list[Shape] = []
    for name in layer.top:
        record = None if datum is None else datum.get(name)
        if record is None:
            unknown(
                layer,
                f'the shape of "{name}" is in its HDF5 source, which could not be read: '
                f"give --input-shape {name}=DIM,...",
            )
        tops.append((batch, *record))
    return tops


def _memory_data(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    p = layer.memory_data_param
    shape = (p.batch_size, p.channels, p.height, p.width)
    if min(shape) < 1:
        fail(layer, "batch_size, channels, height and width must be given and positive")
    return [shape, (p.batch_size,)]


def _spread(layer: pb.LayerParameter, field: str, shapes: Sequence[Shape]) -> list[Shape]:
    if len(shapes) not in (1, len(layer.top)):
        wanted = "1" if len(layer.top) == 1 else f"1 or {len(layer.top)}"
        fail(layer, f"needs {wanted} {field} entries, has {len(shapes)}")
    return list(shapes) if len(shapes) == len(layer.top) else list(shapes) * len(layer.top)


def _dummy_data(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    p = layer.dummy_data_param
    if len(p.data_filler) not in (0, 1, len(layer.top)):
        fail(layer, f"has {len(p.data_filler)} data_filler entries for {len(layer.top)} top(s)")
    old = {"num": p.num, "channels": p.channels, "height": p.height, "width": p.width}
    if any(old.values()):
        if p.shape:
            fail(layer, "shape does not go with num, channels, height and width: remove one")
        columns = [_spread(layer, field, [(dim,) for dim in dims]) for field, dims in old.items()]
        return [tuple(part[0] for part in parts) for parts in zip(*columns, strict=True)]
    return _spread(layer, "shape", [tuple(shape.dim) for shape in p.shape])


def _input(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    p = layer.input_param
    if not p.shape:
        record = _record(layer, datum)
        if record is None:
            flag = f"--input-shape {layer.top[0]}=CHANNELS,HEIGHT,WIDTH"
            unknown(layer, f"gives no shape: add input_param {{ shape {{ dim: ... }} }} or give {flag}")
        return [(1, *record)] * len(layer.top)
    return _spread(layer, "shape", [tuple(shape.dim) for shape in p.shape])


def _parameter(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    return _parameter_params(layer, bottoms)


def _parameter_params(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> list[Shape]:
    return [tuple(layer.parameter_param.shape.dim)]


def _hdf5_output(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    return []


def _prefetched(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    """The batches that are read ahead; the tops are the memory of one of them."""
    return max(0, layer.data_param.prefetch - 1) * sum(map(count, tops))


def _copied(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    return sum(map(count, bottoms))


def _source(
    name: str, shapes: ShapesFn, min_tops: int, max_tops: int | None, buffers: BuffersFn = no_buffers, **traits: Any
) -> Op:
    return Op(
        name,
        shapes,
        min_bottoms=0,
        max_bottoms=0,
        min_tops=min_tops,
        max_tops=max_tops,
        data=True,
        may_be_empty=name == "Input",
        buffers_fn=buffers,
        **traits,
    )


OPS = [
    _source("Data", _data, 1, 2, _prefetched, reads=True, block="data_param"),
    _source("ImageData", _image_data, 2, 2, _prefetched, reads=True, block="image_data_param"),
    _source("WindowData", _window_data, 2, 2, _prefetched, reads=True, block="window_data_param"),
    _source("HDF5Data", _hdf5_data, 1, None, reads=True, block="hdf5_data_param"),
    _source("MemoryData", _memory_data, 2, 2, given=True, block="memory_data_param"),
    _source("DummyData", _dummy_data, 1, None),
    _source("Input", _input, 1, None, given=True),
    Op("Parameter", _parameter, _parameter_params, min_bottoms=0, max_bottoms=0, shares_fn=lambda layer: True),
    Op("HDF5Output", _hdf5_output, min_bottoms=2, max_bottoms=2, min_tops=0, max_tops=0, buffers_fn=_copied),
]
