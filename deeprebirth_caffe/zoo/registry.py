"""The nets of the zoo by name."""

from __future__ import annotations

import os

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import publish_directory
from deeprebirth_caffe.zoo import alexnet, googlenet, mobilenet, resnet, squeezenet, vgg
from deeprebirth_caffe.zoo.design import NetDesign, ZooNet


class ZooError(RebirthError):
    """The zoo has no such net."""


_DESIGNS: dict[str, NetDesign] = {
    design.name: design
    for family in (googlenet, alexnet, resnet, squeezenet, vgg, mobilenet)
    for design in family.DESIGNS
}


def names() -> list[str]:
    """The nets of the zoo, family by family."""
    return list(_DESIGNS)


def design(name: str) -> NetDesign:
    """The description of the net `name`.

    Raises:
        ZooError: there is no net of that name.
    """
    net = _DESIGNS.get(name)
    if net is None:
        raise ZooError(f"zoo: no net is called {name!r}; choose one of {', '.join(_DESIGNS)}")
    return net


def build(name: str) -> ZooNet:
    """The texts of `name`; the same every time.

    Raises:
        ZooError: there is no net of that name.
    """
    return design(name).build()


def write(name: str, directory: str | os.PathLike[str], *, force: bool = False) -> ZooNet:
    """Write train_val.prototxt, deploy.prototxt and solver.prototxt of `name` into `directory`, or nothing.

    Args:
        name: one of `names()`.
        directory: created if missing.
        force: write into a directory that is not empty, over files of the same names.

    Raises:
        ZooError: there is no net of that name.
        RebirthError: the directory is not empty and `force` is not set, or something cannot be written.
    """
    net = build(name)
    publish_directory(net.files(), directory, force)
    return net
