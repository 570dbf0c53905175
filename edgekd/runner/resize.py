"""An image of any size -> the network's, as the data set's images got there, on a board without Pillow.

Source: Pillow's antialiased bilinear resampling of 8-bit images: same filter, same fixed point, columns before rows, each rounded
to 8 bits. Pillow to version 12 gives the same bytes; Pillow 13 does rows first for some sizes, which moves pixels by 1 of 255.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Tuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Image = npt.NDArray[np.uint8]

BITS = 22  # of the weights behind the point
STRIP = 4  # rule `photo`: sides longer than so many times the other are cut before they are enlarged
Box = Tuple[float, float, float, float]  # left, top, right, bottom in pixels


def fit(image: Image, size: Tuple[int, int], rule: str) -> Image:
    """uint8 [H, W, C] -> [h, w, C] by a bundle's rule: `fit-crop`, `squash` or `photo`."""
    height, width = image.shape[:2]
    if rule == "photo":
        return _photo(image, size[0])
    if (height, width) == size:
        return image
    if rule == "squash":
        return resample(image, size, (0.0, 0.0, width, height))
    scale = max(size[1] / width, size[0] / height)
    inner = (size[1] / scale, size[0] / scale)
    left, top = (width - inner[0]) / 2, (height - inner[1]) / 2
    return resample(image, size, (left, top, left + inner[0], top + inner[1]))


def resample(image: Image, size: Tuple[int, int], box: Box) -> Image:
    """The part of an image [H, W, C] in a box, brought to [h, w, C]: columns first, then rows, each rounded to 8 bits."""
    left, top, right, bottom = (float(np.float32(edge)) for edge in box)
    height, width = image.shape[:2]
    if (left, right) != (0, width) or width != size[1]:
        image = _columns(image, left, right, size[1])
    if (top, bottom) != (0, height) or height != size[0]:
        image = _columns(image.transpose(1, 0, 2), top, bottom, size[0]).transpose(1, 0, 2)
    return np.ascontiguousarray(image)


def _columns(image: Image, start: float, end: float, count: int) -> Image:
    """[H, W, C] -> [H, count, C]."""
    firsts, weights = _weights(image.shape[1], start, end, count)
    total = np.full((image.shape[0], count, image.shape[2]), 1 << (BITS - 1), np.int32)
    last = image.shape[1] - 1
    for step in range(weights.shape[1]):
        total += weights[:, step, None] * image[:, np.minimum(firsts + step, last)].astype(np.int32)
    return np.asarray(np.clip(total >> BITS, 0, 255), np.uint8)


def _weights(width: int, start: float, end: float, count: int) -> Tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """First source pixel [count] and weights [count, reach] of every pixel that comes out."""
    scale = float(np.float32(np.float32(end) - np.float32(start))) / count
    spread = max(scale, 1.0)
    centres = [start + (i + 0.5) * scale for i in range(count)]
    firsts = [max(0, int(centre - spread + 0.5)) for centre in centres]
    ends = [min(width, int(centre + spread + 0.5)) for centre in centres]
    weights = np.zeros((count, max(b - a for a, b in zip(firsts, ends))), np.int32)
    for row, (centre, first, stop) in enumerate(zip(centres, firsts, ends)):
        near = [max(0.0, 1.0 - abs((x - centre + 0.5) * (1.0 / spread))) for x in range(first, stop)]
        whole = sum(near)
        weights[row, : stop - first] = [math.floor(0.5 + value / whole * (1 << BITS)) for value in near]
    return np.array(firsts, np.int64), weights


def _photo(image: Image, size: int) -> Image:
    """Shorter side to round(size * 256 / 224), then the centre square of `size`."""
    side = round(size * 256 / 224)
    height, width = image.shape[:2]
    if max(height, width) > STRIP * min(height, width) and min(height, width) < side:
        image = _centre(image, min(width, STRIP * height), min(height, STRIP * width))
        height, width = image.shape[:2]
    target = (int(side * height / width), side) if width <= height else (side, int(side * width / height))
    if (height, width) != target:
        image = resample(image, target, (0.0, 0.0, width, height))
    return _centre(image, size, size)


def _centre(image: Image, width: int, height: int) -> Image:
    left, top = round((image.shape[1] - width) / 2), round((image.shape[0] - height) / 2)
    return np.ascontiguousarray(image[top : top + height, left : left + width])
