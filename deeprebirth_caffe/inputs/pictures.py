"""Pictures from files, as a net wants them: found, decoded, resized, cropped, with the mean taken off."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deeprebirth_caffe.errors import RebirthError, UsageError
from deeprebirth_caffe.formats.blobs import read_blob
from deeprebirth_caffe.formats.files import read_regular
from deeprebirth_caffe.formats.records import datum_shape
from deeprebirth_caffe.formats.wire import WireError
from deeprebirth_caffe.inputs.roots import find_root
from deeprebirth_caffe.inputs.sources import source_of
from deeprebirth_caffe.ir import Layer, Net
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.ops.base import by
from deeprebirth_caffe.options.shared import PictureOptions
from deeprebirth_caffe.proto import caffe_pb2 as pb

FloatArray = npt.NDArray[np.float32]


Lender = tuple[Layer, Path]
"""A data layer that says how pictures are prepared, and where its paths start."""


def transformation(options: PictureOptions, own: Lender | None, asking: str) -> pb.TransformationParameter:
    """What becomes of the values of pixels, with an absolute path of the mean picture.

    Args:
        options: what the command line says; it goes before what a data layer says.
        own: the layer that says the rest, where there is one.
        asking: what an error calls the net.

    Raises:
        UsageError: nobody says it: a guess that is wrong still gives numbers, and they look good.
    """
    if own is None and not options.says:
        raise UsageError(
            f"{asking}: no data layer of it says how pictures are prepared; say it: --mean-value or --mean-file and "
            "--scale, --transform-from NET, or --raw-pixels if it learned from 0 to 255 as they are"
        )
    transform = pb.TransformationParameter()
    if own is not None:
        transform.CopyFrom(own[0].param.transform_param)
    if transform.HasField("mean_file"):
        transform.mean_file = str((own[1] if own is not None else Path()).absolute() / transform.mean_file)
    transform.ClearField("mirror")
    if options.mean_file is not None or options.mean_value or options.raw_pixels:
        transform.ClearField("mean_file")
        transform.ClearField("mean_value")
        transform.mean_value.extend(options.mean_value)
    if options.mean_file is not None:
        transform.mean_file = str(options.mean_file.absolute())
    if options.raw_pixels:
        transform.ClearField("scale")
    if options.scale is not None:
        transform.scale = options.scale
    return transform


def spell(transform: pb.TransformationParameter) -> list[str]:
    """What a data layer does to pictures, for people."""
    parts = []
    if transform.crop_size:
        parts.append(f"the middle {transform.crop_size}x{transform.crop_size}")
    if transform.HasField("mean_file"):
        parts.append(f"minus {transform.mean_file}")
    elif transform.mean_value:
        parts.append(f"minus {', '.join(f'{value:g}' for value in transform.mean_value)}")
    if transform.scale != 1:
        parts.append(f"times {transform.scale:g}")
    if not transform.HasField("mean_file") and not transform.mean_value and transform.scale == 1:
        parts.append("no mean, no scale")
    return parts


def find_pictures(names: Iterable[str]) -> list[Path]:
    """Files as they are; of folders, the pictures in them and below; what patterns match.

    Raises:
        UsageError: a name leads to nothing.
    """
    from deeprebirth_caffe.data.listing import SUFFIXES

    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES and one.is_file())
            if not inside:
                raise UsageError(f"{name}: there is no picture in this folder")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            matched = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
            if not matched:
                raise UsageError(f"{name}: there is no such picture")
            found += [one for one in matched if one.is_file()]
    return found


class Preprocessing:
    """From a file to what one input of a net takes.

    Attributes:
        said: for people: what is done.
    """

    def __init__(self, options: PictureOptions, shape: Shape, own: Lender | None, asking: str) -> None:
        """Settles what is done.

        Args:
            options: what the command line says; it goes before what a data layer says.
            shape: the input's: batch, channels, height, width.
            own: the net's own data layer for pictures, where it has one.
            asking: what an error calls the net.

        Raises:
            RebirthError: something does not fit.
            UsageError: nobody says what becomes of the values of pixels.
        """
        from deeprebirth_caffe.data.transform import Transform

        lender = lender_of(options.transform_from) if options.transform_from is not None else own
        root = lender[1] if lender is not None else Path()
        self._channels, height, width = shape[1:]
        if self._channels not in (1, 3):
            raise RebirthError(f"the net's input has {self._channels} channels; pictures have 1 or 3")
        self._param = pb.LayerParameter(name="pictures", type="Input")
        transform = self._param.transform_param
        transform.CopyFrom(transformation(options, lender, asking))
        for field in ("force_color", "force_gray"):
            transform.ClearField(field)
        crop = options.crop if options.crop is not None else height if height == width else 0
        self._size = options.resize or _stored_size(lender) or _mean_size(transform) or (height, width)
        if min(*self._size, height, width) < 1:
            raise RebirthError(f"the net's input is {by(shape)}, and pictures {by(self._size)}: nothing is left of one")
        if crop and crop == min(self._size) == max(self._size) and not transform.mean_file:
            crop = 0
        if crop > min(self._size):
            raise RebirthError(
                f"pictures are resized to {self._size[0]}x{self._size[1]}, and the net takes {crop}x{crop}; give "
                "a larger --resize, or --crop"
            )
        transform.crop_size = crop
        self._transform = Transform(self._param, False, root)
        size = f"resized to {self._size[0]}x{self._size[1]}"
        self.said = f"pictures: {'; '.join(['blue, green, red' if self.color else 'gray', size, *spell(transform)])}"

    @property
    def color(self) -> bool:
        """Whether pictures are read as blue, green and red; else as gray."""
        return self._channels == 3

    def data_layer(self, top: str, source: str, batch: int) -> pb.LayerParameter:
        """A layer with which Caffe itself prepares the pictures of a list so.

        Args:
            top: the blob that they go into.
            source: the list, with a label behind each path, which means nothing.
            batch: how many are read at a time.
        """
        layer = pb.LayerParameter(name=top, type="ImageData", top=[top, f"{top}/unused"])
        layer.transform_param.CopyFrom(self._param.transform_param)
        height, width = self._size
        layer.image_data_param.MergeFrom(
            pb.ImageDataParameter(
                source=source,
                batch_size=batch,
                new_height=height,
                new_width=width,
                is_color=self.color,
                shuffle=True,
            )
        )
        return layer

    def read(self, files: Sequence[Path]) -> FloatArray:
        """The pictures of some files, one behind the other.

        Raises:
            RebirthError: it names the file that is no picture, or does not fit.
        """
        from deeprebirth_caffe.data.decode import BadRecordError, read_picture

        batch: FloatArray | None = None
        for index, path in enumerate(files):
            try:
                picture = read_picture(path, self.color, self._size)
                if batch is None:
                    shape = self._transform.shape(self._channels, *picture.shape[:2])
                    batch = np.empty((len(files), *shape), np.float32)
                self._transform.apply(picture, False, batch[index], None)
            except BadRecordError as error:
                raise RebirthError(f"{path}: {error}") from error
        assert batch is not None
        return batch


def lender_of(path: Path) -> Lender:
    """The data layer of a net that says how pictures are prepared.

    Raises:
        RebirthError: there is none.
    """
    found = own_lender(Net.read(path), path)
    if found is None:
        raise RebirthError(f"{path}: --transform-from wants a net with a data layer for TEST; there is none in it")
    return found


def own_lender(net: Net, path: Path) -> Lender | None:
    """The data layer of a net that says how pictures are prepared; None where there is none.

    What an HDF5Data reads is prepared already, and nobody says how.

    Args:
        net: it.
        path: of its file, for where its own paths start.
    """
    layer = data_layer(net)
    if layer is None or layer.type == "HDF5Data":
        return None
    return layer, find_root([layer.param.transform_param.mean_file or source_of(layer), source_of(layer)], path)


def data_layer(net: Net) -> Layer | None:
    """The layer that brings a net its pictures in TEST."""
    view = next((view for view in net.views if view.state.phase == "TEST"), net.views[0])
    return next((layer for layer in view.layers if layer.traits.reads and layer.type != "WindowData"), None)


def _stored_size(lender: Lender | None) -> tuple[int, int] | None:
    """The size of the pictures that a data layer reads, before it crops them."""
    if lender is None:
        return None
    layer, root = lender
    given = layer.param.image_data_param
    if layer.type == "ImageData" and given.new_height:
        return given.new_height, given.new_width
    if layer.type == "Data":
        backend = pb.DataParameter.DB.Name(layer.param.data_param.backend)
        shape = datum_shape(layer.param.data_param.source, backend, root)
        return None if shape is None else (shape[1], shape[2])
    return None


def _mean_size(transform: pb.TransformationParameter) -> tuple[int, int] | None:
    if not transform.HasField("mean_file"):
        return None
    path = Path(transform.mean_file)
    try:
        data = read_regular(path)
        shape = read_blob(data, 0, len(data)).array.shape
    except OSError as error:
        raise RebirthError(f"{path}: cannot read this mean: {error.strerror or error}") from error
    except (WireError, ValueError) as error:
        raise RebirthError(f"{path}: no binaryproto of a mean ({error})") from error
    return (int(shape[-2]), int(shape[-1])) if len(shape) > 1 else None
