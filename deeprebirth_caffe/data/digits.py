"""scikit-learn's handwritten digits, which come with the library: 1,797 pictures of 8 x 8 pixels."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from deeprebirth_caffe.data.decode import Picture, opencv
from deeprebirth_caffe.data.libraries import need

CLASSES = tuple("0123456789")
TEST_EVERY = 5
"""Every fifth digit of a class is for testing."""


@dataclass(frozen=True)
class Digit:
    """One picture.

    Attributes:
        name: made of its place in scikit-learn's set.
        picture: values from 0 to 255.
        label: the digit.
    """

    name: str
    picture: Picture
    label: int


def digits(part: str, size: int = 28, channels: int = 1) -> Iterator[Digit]:
    """The digits of a part, always in the same order.

    Args:
        part: `train` (four fifths of each digit) or `test`.
        size: the height and width to enlarge them to.
        channels: how often the gray picture is repeated.
    """
    from_sklearn = need("sklearn.datasets", "making the digits").load_digits()
    cv2 = opencv()
    seen = [0] * len(CLASSES)
    chosen = []
    for place, label in enumerate(from_sklearn.target.tolist()):
        seen[label] += 1
        if (seen[label] % TEST_EVERY == 0) == (part == "test"):
            chosen.append((place, label))
    # The digits of one writer are neighbours.
    random.Random(0).shuffle(chosen)
    for place, label in chosen:
        # Halves are rounded up: 16 levels become 0, 16, 32, …, 255.
        pixels = np.floor(from_sklearn.images[place] * (255 / 16) + 0.5).astype(np.uint8)
        picture = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LINEAR)
        if channels > 1:
            picture = np.repeat(picture[:, :, None], channels, axis=2)
        yield Digit(f"digit-{place:04d}", picture, label)
