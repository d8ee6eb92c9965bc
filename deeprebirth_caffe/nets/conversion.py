"""What a directory that `rebirth convert` wrote says about itself: the converted net, and the one it was."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import read_regular
from deeprebirth_caffe.formats.jsonfile import ANYTHING, COUNT, FILE_NAME, TEXT, Each, Maybe, parse_json, shaped
from deeprebirth_caffe.formats.jsonfile import Shape as JsonShape
from deeprebirth_caffe.formats.outputs import MANIFEST
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.ir.subnet import ancestors
from deeprebirth_caffe.nets.load import ALL_OF_A_TEACHER, load_net, need_weights
from deeprebirth_caffe.nets.manifest import read_earlier
from deeprebirth_caffe.nets.parts import make_whole
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.results import SCHEMA

_SHAPE: JsonShape = {
    "outputs": {"directory": TEXT, "net": FILE_NAME, "weights?": FILE_NAME},
    "source": {"net": TEXT, "weights": Maybe(TEXT)},
    "origins": Each([TEXT]),
    "options?": {"input_shapes?": Each([COUNT])},
}


@dataclass(frozen=True)
class Conversion:
    """A manifest of a conversion, with paths that are good here.

    Attributes:
        net: the converted net.
        weights: that it starts from; None where it was converted without.
        source: the net that was converted.
        source_weights: its weights, likewise.
        origins: by rebirth layer, the names of the original layers it stands for.
        input_shapes: as the conversion was told.
    """

    net: Path
    weights: Path | None
    source: Path
    source_weights: Path | None
    origins: Mapping[str, list[str]]
    input_shapes: Mapping[str, Shape]


@dataclass(frozen=True)
class Pair:
    """A converted net and the one it was.

    Attributes:
        path: of the teacher, for where its paths start.
        teacher: the original net, with its weights.
        student: the converted one, with those that it starts from.
        origins: by rebirth layer, the names of the original layers it stands for.
    """

    path: Path
    teacher: Net
    student: Net
    origins: Mapping[str, Sequence[str]]


def read_conversion(directory: Path) -> Conversion:
    """Reads the manifest of a conversion.

    The original net and its weights are looked for where they lie as seen from the directory, as they did then, and
    where the manifest says.

    Raises:
        RebirthError: there is no manifest, or it is not one of a conversion.
    """
    path = directory / MANIFEST
    try:
        manifest = shaped(parse_json(read_regular(path)), {"version": ANYTHING})
        if manifest["version"] != SCHEMA:
            raise ValueError(f"version {manifest['version']!r:.40}, and this rebirth reads {SCHEMA}")
        manifest = shaped(manifest, {"outputs": Each(ANYTHING), "source": Each(ANYTHING)})
        outputs, source = manifest["outputs"], manifest["source"]
        if "blocks" in manifest:
            raise RebirthError(
                f"{path}: rebirth distil wrote this; name the directory that it was told: {source.get('directory')}"
            )
        if "net" not in outputs:
            raise ValueError("nothing was converted there")
        if "origins" not in manifest:
            raise ValueError(
                "an older rebirth wrote it, which did not keep what rebirth layers stand for; convert again"
            )
        manifest = shaped(manifest, _SHAPE)
        return Conversion(
            net=directory / outputs["net"],
            weights=directory / outputs["weights"] if "weights" in outputs else None,
            source=_found(source["net"], outputs["directory"], directory),
            source_weights=_found(source["weights"], outputs["directory"], directory) if source["weights"] else None,
            origins=manifest["origins"],
            input_shapes={
                blob: tuple(shape) for blob, shape in manifest.get("options", {}).get("input_shapes", {}).items()
            },
        )
    except FileNotFoundError as error:
        raise RebirthError(f"{path}: there is no manifest; name a directory that rebirth convert wrote") from error
    except (OSError, ValueError) as error:
        raise RebirthError(f"{path}: cannot be read as a manifest of rebirth convert ({error})") from error


def _found(recorded: str, directory: str, here: Path) -> Path:
    """Where a file is that a manifest names.

    Args:
        recorded: its path then.
        directory: the path of the manifest's directory then.
        here: where that directory is now.
    """
    named = Path(recorded)
    places = [here / os.path.relpath(recorded, directory), named]
    if named.is_absolute():
        places.reverse()
    return next((place for place in places if place.is_file()), named)


@dataclass(frozen=True)
class Opened:
    """The nets of a conversion, read.

    Attributes:
        found: what the conversion says about itself.
        pair: the nets.
        start: the weights of the converted one.
        teacher_weights: those of the original.
    """

    found: Conversion
    pair: Pair
    start: Path
    teacher_weights: Path


def open_conversion(
    directory: Path, weights: Path | None = None, teacher: Path | None = None, teacher_weights: Path | None = None
) -> Opened:
    """Reads both nets of a conversion with their weights.

    Args:
        directory: that `rebirth convert` wrote.
        weights: that the converted net starts from; None: those in the directory.
        teacher: the net that was converted; None: as the manifest says.
        teacher_weights: its weights; likewise.

    Raises:
        RebirthError: a file is missing, or cannot be read, or weights that count are not in it.
    """
    found = read_conversion(directory)
    start = weights or found.weights
    net, its_weights = teacher or found.source, teacher_weights or found.source_weights
    if start is None:
        raise RebirthError(f"{directory}: the net was converted without weights; give those to start from: -w")
    if its_weights is None:
        raise RebirthError(f"{net}: it was converted without weights; give them: --teacher-weights")
    for path, flag in ((net, "--teacher"), (its_weights, "--teacher-weights")):
        if not path.is_file():
            raise RebirthError(f"{path}: the original is not there any more; say where it is: {flag}")
    student = load_net(found.net, start, _known(found.net, found.input_shapes))
    why = "rebirth layers and what they read need a start; give weights of the converted net: -w"
    need_weights(student, found.net, start, _below_rebirth(found, student), why)
    original = load_net(net, its_weights, _known(net, found.input_shapes))
    need_weights(original, net, its_weights, {layer.name for layer in original.view("TEST").layers}, ALL_OF_A_TEACHER)
    # What an earlier `--reparam` left in parts the conversion took as one, and so do the origins.
    make_whole(original, net)
    return Opened(found, Pair(net, original, student, found.origins), start, its_weights)


def _below_rebirth(found: Conversion, student: Net) -> set[str]:
    """The names of the rebirth layers, or of their parts, and of all that they depend on in TEST."""
    parts = read_earlier(found.net).reparam
    names = {part for layer in found.origins for part in (layer, *parts.get(layer, ()))}
    view = student.view("TEST")
    values = [value for layer in view.layers if layer.name in names for value in view.outs[layer]]
    return {layer.name for layer in ancestors(view, values)}


def _known(path: Path, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Those of some shapes whose blobs a net has: a teacher that somebody names may have others."""
    names = Net.read(path).names() if shapes else set()
    return {blob: shape for blob, shape in shapes.items() if blob in names}
