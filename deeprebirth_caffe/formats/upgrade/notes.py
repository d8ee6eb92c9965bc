"""What an upgrade has to say: where a field could not be carried over, and where nothing can be."""

from __future__ import annotations

from dataclasses import dataclass, field

from deeprebirth_caffe.errors import RebirthError

V0, V1, TRANSFORM, INPUT, BATCHNORM = "V0", "V1", "data transformation", "input", "BatchNorm"
"""The old forms a net may have, in the order in which they are upgraded."""


class UpgradeError(RebirthError):
    """A net or solver in an old form that says something no upgrade can carry over.

    Attributes:
        layer: the place of the layer among the file's ``layers``, or None.
        what: the message without the layer's place and name.
    """

    def __init__(self, what: str, layer: int | None = None, name: str = "") -> None:
        super().__init__(place(layer, name) + what)
        self.layer = layer
        self.what = what


@dataclass(frozen=True)
class Note:
    """Something that the upgrade changed or left out beyond the form.

    Attributes:
        text: what it is, in words.
        layer: the place of the layer among the file's ``layers``, or None.
        name: the layer's name.
    """

    text: str
    layer: int | None = None
    name: str = ""

    def __str__(self) -> str:
        return place(self.layer, self.name) + self.text


@dataclass
class Upgrade:
    """What was done to a message.

    Attributes:
        forms: the old forms that were found, in the order in which they were upgraded.
        notes: what is worth saying.
        places: for each layer of the result its place among the old net's layers; None for a new one.
        complete: whether Caffe calls this upgrade a success: false where the old form had a field that the
            layer's type never used.
    """

    forms: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    places: list[int | None] = field(default_factory=list)
    complete: bool = True


def place(layer: int | None, name: str) -> str:
    """How a message names a layer: by its number, since names are often missing or shared."""
    if layer is None:
        return ""
    return f'layers[{layer}] "{name}": ' if name else f"layers[{layer}]: "
