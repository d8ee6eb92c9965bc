"""What `rebirth forward` may be told."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.options.fields import OUTPUT, argument, group, needed, option
from deeprebirth_caffe.options.kinds import COUNT, FILE, NET, OUT_FILE
from deeprebirth_caffe.options.shared import (
    EngineOptions,
    PictureOptions,
    SizedPictureOptions,
    replace_option,
    shapes_option,
)


@dataclass(frozen=True)
class ForwardOptions:
    """What `rebirth forward` is told; see its help.

    Attributes:
        more: images as well, named without `-i`.
    """

    net: Path = argument("net", NET)
    weights: Path = needed("-w", "--weights", kind=FILE, help="The learned weights.")
    images: Sequence[str] = option(
        (), "-i", "--images", many=True, help="A picture, a folder or a pattern; may be repeated."
    )
    blobs: Sequence[str] = option(
        (), "--blob", many=True, title=OUTPUT, help="Write this blob, not labels; may be repeated."
    )
    out: Path | None = option(None, "-o", "--out", kind=OUT_FILE, title=OUTPUT, help="The .npz for --blob.")
    labels: Path | None = option(
        None, "--labels", kind=FILE, title=OUTPUT, help="What the classes are called, a line a class."
    )
    top: int = option(5, "--top", kind=COUNT, title=OUTPUT, shown=True, help="How many classes.")
    pictures: PictureOptions = group(SizedPictureOptions)
    engine: EngineOptions = group(EngineOptions)
    input_shapes: Mapping[str, tuple[int, ...]] = shapes_option()
    more: Sequence[str] = argument("more", default=(), many=True, metavar="[IMAGES]...")
    force: bool = replace_option()

    @property
    def named(self) -> tuple[str, ...]:
        """All images that are named."""
        return (*self.images, *self.more)

    def verify(self, given: Collection[str]) -> None:
        """Raises UsageError where there is no picture."""
        if not self.named:
            raise UsageError("no picture given: -i IMAGE")
