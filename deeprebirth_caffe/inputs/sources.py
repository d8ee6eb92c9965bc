"""The data layers of a net whose records lie on the disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import read_regular_text
from deeprebirth_caffe.formats.records import datum_shape
from deeprebirth_caffe.ir import Layer, Net, View
from deeprebirth_caffe.proto import caffe_pb2 as pb


def reads_source(layer: Layer) -> bool:
    """Whether a layer reads records from the disk."""
    return layer.traits.reads


def source_layers(view: View) -> list[Layer]:
    """The layers that read records from the disk."""
    return [layer for layer in view.layers if reads_source(layer)]


def source_of(layer: Layer) -> str:
    """The path such a layer names."""
    return str(layer.own.source)


def files_of(layer: Layer, root: Path) -> list[Path]:
    """The files and databases that a layer's own text names: its source, its mean."""
    names = [layer.param.transform_param.mean_file]
    if reads_source(layer):
        names.append(source_of(layer))
    files = [root / name for name in names if name]
    if layer.type == "HDF5Data" and files[-1:] and files[-1].is_file():
        files += [root / name for name in _lines(files[-1])]
    return files


def batch_of(layer: Layer) -> int:
    """How many records it takes at a time."""
    return int(layer.own.batch_size)


def set_batch(layer: Layer, batch: int) -> None:
    """Says in a layer that reads records how many it takes at a time."""
    layer.own.batch_size = batch


def check_sources(layers: Iterable[Layer], root: Path) -> None:
    """Refuses data layers that no engine could read.

    Raises:
        RebirthError: it names the layer and the source, and where its path starts if nothing is there.
    """
    from deeprebirth_caffe.data import check_source

    for layer in layers:
        try:
            check_source(layer.param, root)
        except RebirthError as error:
            if (root / source_of(layer)).exists():
                raise
            raise RebirthError(f"{error}; paths start in {root.absolute()}") from error


def keys_known(layer: Layer) -> bool:
    """Whether both engines read the layer's records in the order of the source, from its beginning."""
    param = layer.param
    if layer.type == "Data":
        return not param.data_param.rand_skip
    if layer.type == "ImageData":
        return not param.image_data_param.rand_skip and not param.image_data_param.shuffle
    return layer.type == "HDF5Data" and not param.hdf5_data_param.shuffle


def read_keys(layer: Layer, root: Path) -> Iterator[list[str]]:
    """What the records of each batch are called, round and round; nothing is decoded."""
    from deeprebirth_caffe.data.layer import READERS

    reader = READERS[layer.type](layer.param, False, root, 0)
    try:
        while True:
            yield reader.read().keys
    finally:
        reader.close()


def count_records(layer: Layer, root: Path, most: int | None = None) -> int | None:
    """How many records a source has; None where it gives a random choice.

    Args:
        layer: that reads it.
        root: where relative paths start.
        most: where counting a database may stop.
    """
    path = root / source_of(layer)
    if layer.type == "Data":
        return _count_database(path, pb.DataParameter.DB.Name(layer.param.data_param.backend), most)
    if layer.type == "ImageData":
        return sum(1 for line in _lines(path))
    if layer.type == "HDF5Data":
        from deeprebirth_caffe.formats.hdf5 import count_rows

        return sum(count_rows(root / name, layer.tops[0]) for name in _lines(path))
    return None


def _count_database(path: Path, backend: str, most: int | None) -> int:
    from deeprebirth_caffe.formats.stores import open_cursor

    cursor = open_cursor(path, backend)
    try:
        first, count = cursor.key(), 1
        cursor.advance()
        while cursor.key() != first and count != most:
            count += 1
            cursor.advance()
        return count
    except RebirthError as error:
        raise RebirthError(f"{path}: {error}") from error
    finally:
        cursor.close()


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_regular_text(path).splitlines() if line.strip()]


def read_shapes(net: Net, root: Path) -> None:
    """Takes the shapes of the net's data from the first records, where they can be read.

    Args:
        net: `net.data` is filled, and its views are made anew.
        root: where relative paths start.
    """
    for layer in net.layers:
        param = layer.param
        if layer.type == "HDF5Data":
            shapes = {top: datum_shape(param.hdf5_data_param.source, "HDF5", root, top=top) for top in layer.tops}
            known = {top: shape for top, shape in shapes.items() if shape is not None}
            if known:
                net.data[layer] = known  # type: ignore[assignment]
            continue
        shape = None
        if layer.type == "Data":
            backend = pb.DataParameter.DB.Name(param.data_param.backend)
            shape = datum_shape(param.data_param.source, backend, root)
        elif layer.type == "ImageData":
            given = param.image_data_param
            shape = datum_shape(given.source, "IMAGES", root, image_root=given.root_folder)
        if shape is not None:
            net.data[layer] = shape
    net.changed()
