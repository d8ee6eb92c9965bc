"""`rebirth zoo`: the files of known nets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe import zoo
from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.formats.outputs import STDOUT, Place, write_output
from deeprebirth_caffe.options.looking import ZooOptions
from deeprebirth_caffe.results import Result


@dataclass(frozen=True, kw_only=True)
class Named:
    """A net of the zoo.

    Attributes:
        name: what `rebirth zoo NAME` takes.
        description: for people.
    """

    name: str
    description: str


@dataclass(frozen=True, kw_only=True)
class Nets(Result):
    """What `rebirth zoo list` tells.

    Attributes:
        nets: all nets, family by family.
    """

    nets: Sequence[Named]


@dataclass(frozen=True, kw_only=True)
class WrittenNet(Result):
    """What `rebirth zoo NAME` wrote.

    Attributes:
        directory: path.
        files: what was written there.
        notes: for people.
    """

    directory: Path
    files: Sequence[str]
    notes: Sequence[str]


def list_nets() -> Nets:
    """The nets that there are."""
    return Nets(nets=[Named(name=net.name, description=net.description) for net in map(zoo.build, zoo.names())])


def write_net(options: ZooOptions) -> WrittenNet | None:
    """Writes a net's files into a directory, or one of them on standard output.

    Returns:
        What was written; None where standard output has a file.

    Raises:
        UsageError: there is no such net.
        RebirthError: the directory is not empty.
    """
    name = options.name
    if name not in zoo.names():
        raise UsageError(f"there is no net {name!r} in the zoo; there are {', '.join(zoo.names())}")
    files = zoo.build(name).files()
    if options.out == STDOUT:
        write_output(options.out, files[f"{options.part}.prototxt"])
        return None
    directory = options.out if options.out is not None else Path(name)
    place = Place(directory, options.force, tuple(files))
    place.check()
    notes = place.notes(files)
    place.publish(files)
    return WrittenNet(directory=directory, files=list(files), notes=notes)
