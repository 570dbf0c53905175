"""Photos at their own aspect: what `resize: photo` makes of one, and the store of whole training photos that `rrc` crops from.

`photo`: shorter side to round(size * 256 / 224), then the centre square of `size`: what ImageNet networks are evaluated on.
The whole training photos are kept beside, their shorter side at most as long: a crop of 8 % of the area is then about
0.32 * size wide and is blown up 3 times, where cropping from a larger original would blow it up less. Keeping more costs
disk as the square of the side; 224 takes 260 KB a photo of 4:3.

Source: torchvision's reference evaluation (resize 256, crop 224) and its rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from edgekd.data.base import Allocate, Photos

PHOTOS = "photos"  # what `Allocate` is asked for beside the splits
STRIP = (
    4  # sides longer than so many times the other are cut before they are enlarged: the centre square needs none of it
)


def room(sides: Sequence[tuple[int, int]], size: int, channels: int, allocate: Allocate) -> Photos:
    """An empty store for photos of these (width, height) in pixels before they are reduced."""
    shapes = np.array([_reduced(width, height, size)[::-1] for width, height in sides], dtype=np.int64).reshape(-1, 2)
    ends = np.cumsum(shapes.prod(axis=1) * channels)
    firsts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    return Photos(allocate(PHOTOS, (int(ends[-1]),)), np.column_stack([firsts, shapes]), channels)


def whole(image: Image.Image, size: int) -> Image.Image:
    """The photo with its shorter side at most `shorter(size)`, aspect kept."""
    target = _reduced(*image.size, size)
    return image if image.size == target else image.resize(target, Image.Resampling.BILINEAR)


def square(image: Image.Image, size: int) -> Image.Image:
    """The centre square of a photo whose shorter side is brought to `shorter(size)`; the same from the photo and its `whole`."""
    side = shorter(size)
    if max(image.size) > STRIP * min(image.size) and min(image.size) < side:
        image = _centre(image, min(image.width, STRIP * image.height), min(image.height, STRIP * image.width))
    target = _scaled(*image.size, side)
    resized = image if image.size == target else image.resize(target, Image.Resampling.BILINEAR)
    return _centre(resized, size, size)


def shorter(size: int) -> int:
    """Pixels of the shorter side before the centre square of `size` is cut out."""
    return round(size * 256 / 224)


def _reduced(width: int, height: int, size: int) -> tuple[int, int]:
    return (width, height) if min(width, height) <= shorter(size) else _scaled(width, height, shorter(size))


def _scaled(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) with the shorter one `side`; the longer one is cut to a whole number, as torchvision does."""
    return (side, int(side * height / width)) if width <= height else (int(side * width / height), side)


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
