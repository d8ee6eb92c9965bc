"""`rebirth zoo`: the files of known nets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deeprebirth_caffe import zoo
from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.formats.outputs import STDOUT, Place, write_output
from deeprebirth_caffe.options.looking import ZooOptions


def list_nets() -> dict[str, Any]:
    """The nets that there are; `docs/json.md` describes the result."""
    nets = map(zoo.build, zoo.names())
    return {"version": 1, "nets": [{"name": net.name, "description": net.description} for net in nets]}


def write_net(options: ZooOptions) -> dict[str, Any] | None:
    """Writes a net's files into a directory, or one of them on standard output.

    Returns:
        What `--json` prints; None where standard output has a file.

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
    return {"version": 1, "directory": str(directory), "files": list(files), "notes": notes}
