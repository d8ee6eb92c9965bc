"""The nets of the zoo by name."""

from __future__ import annotations

import os

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import publish_directory
from deeprebirth_caffe.zoo import alexnet, googlenet, mobilenet, resnet, squeezenet, vgg
from deeprebirth_caffe.zoo.recipe import Recipe, ZooNet


class ZooError(RebirthError):
    """The zoo has no such net."""


_RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for family in (googlenet, alexnet, resnet, squeezenet, vgg, mobilenet)
    for recipe in family.RECIPES
}


def names() -> list[str]:
    """The nets of the zoo, family by family."""
    return list(_RECIPES)


def recipe(name: str) -> Recipe:
    """The description of the net `name`.

    Raises:
        ZooError: there is no net of that name.
    """
    found = _RECIPES.get(name)
    if found is None:
        raise ZooError(f"zoo: no net is called {name!r}; choose one of {', '.join(_RECIPES)}")
    return found


def build(name: str) -> ZooNet:
    """The texts of `name`; the same every time.

    Raises:
        ZooError: there is no net of that name.
    """
    return recipe(name).build()


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
