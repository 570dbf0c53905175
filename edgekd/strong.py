"""Strong views of a batch: a few random operations on each image at one strength, then a square cut out.

Operations work on levels 0 .. 255, as Pillow's do. Images are grouped by operation, so a batch costs a few calls each.

Source: Cubuk, Zoph, Shlens, Le, RandAugment, CVPR 2020, section 3 (operations; their full strengths are those of Cubuk et al.,
AutoAugment, CVPR 2019, table 6, at magnitude 30); DeVries, Taylor, Improved Regularization with Cutout, 2017. Invert stands in
for the identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

FULL = 30  # magnitude of the full strength
ANGLE, SHEAR, SHIFT = 30.0, 0.3, 150 / 331  # full strengths: degrees; pixels a pixel; part of the side
CONTRAST = 0.9  # full strength of colour, contrast, brightness and sharpness: factors 1 +- 0.9
BITS = 4  # that posterize takes away at full strength
CUT = 0.5  # largest side of the square that is cut out, of the shorter side
GREY = 127.0  # its level
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's mode L


class Strength(NamedTuple):
    """How strongly each of n images is changed."""

    part: float  # of the full strength, 0 .. 1
    signs: Tensor  # [n], 1 or -1: which way, where there are two


def strengthen(images: Tensor, generator: torch.Generator, ops: int = 2, magnitude: int = 10) -> Tensor:
    """Each image after `ops` random operations of that magnitude and one cutout.

    Colour needs three channels and leaves other images as they are; Contrast goes to the mean over all channels where there
    are not three. All other operations take each channel by itself.

    Args:
        images: [B, C, H, W] in [0, 1].
        generator: Drawn from on its own device: a CPU generator gives the same views on every device.
        ops: Operations on each image, drawn with replacement.
        magnitude: 0 .. 30.

    Returns:
        [B, C, H, W] in [0, 1], channels_last.
    """
    n = len(images)
    chosen = torch.randint(len(OPERATIONS), (ops, n), generator=generator, device=generator.device)
    signs = torch.randint(2, (ops, n), generator=generator, device=generator.device) * 2 - 1
    square = torch.rand((3, n), generator=generator, device=generator.device).to(images.device)
    levels = images.contiguous() * 255  # rows of one channel lie together: its extremes and histogram are found faster
    for which, ways in zip(chosen, signs, strict=True):
        order = which.argsort(stable=True)
        counts = torch.bincount(which, minlength=len(OPERATIONS)).tolist()
        rows, ways = order.to(images.device), ways[order].to(images.device, images.dtype)
        parts = zip(OPERATIONS.values(), torch.split(levels[rows], counts), torch.split(ways, counts), strict=True)
        done = [change(part, Strength(magnitude / FULL, sign)) for change, part, sign in parts if len(part)]
        levels = torch.empty_like(levels).index_copy_(0, rows, torch.cat(done)) if done else levels
    return (cut_out(levels, square) / 255).contiguous(memory_format=torch.channels_last)


def autocontrast(levels: Tensor, strength: Strength) -> Tensor:
    """Each channel stretched to 0 .. 255."""
    low, high = levels.amin((2, 3), keepdim=True), levels.amax((2, 3), keepdim=True)
    flat = high <= low
    return torch.where(flat, levels, (levels - low) * (255 / (high - low).masked_fill(flat, 1)))


def equalize(levels: Tensor, strength: Strength) -> Tensor:
    """Each channel with as even a histogram as a table of levels can make it."""
    rounded = levels.round().long().flatten(2).flatten(0, 1)
    counts = torch.zeros((len(rounded), 256), dtype=torch.int64, device=levels.device)
    counts.scatter_add_(1, rounded, torch.ones_like(rounded))
    last = counts.gather(1, rounded.amax(1, keepdim=True))
    step = (rounded.shape[1] - last) // 255
    table = ((counts.cumsum(1) - counts + step // 2) // step.clamp_min(1)).clamp_max(255)
    even = torch.where(step > 0, table.gather(1, rounded), rounded)
    return even.view_as(levels).to(levels.dtype)


def invert(levels: Tensor, strength: Strength) -> Tensor:
    """Black for white."""
    return 255 - levels


def posterize(levels: Tensor, strength: Strength) -> Tensor:
    """The lowest bits of every level off."""
    step = 2.0 ** round(BITS * strength.part)
    return (levels.round() / step).floor() * step


def solarize(levels: Tensor, strength: Strength) -> Tensor:
    """Levels above a threshold inverted."""
    rounded = levels.round()
    return torch.where(rounded < round(255 * (1 - strength.part)), rounded, 255 - rounded)


def color(levels: Tensor, strength: Strength) -> Tensor:
    """More or less colour; an image that has not three channels as it is."""
    return _blended(_grey(levels).expand_as(levels), levels, strength) if levels.shape[1] == 3 else levels


def contrast(levels: Tensor, strength: Strength) -> Tensor:
    """Away from or towards the mean level."""
    return _blended(_grey(levels).mean((1, 2, 3), keepdim=True).round(), levels, strength)


def brightness(levels: Tensor, strength: Strength) -> Tensor:
    """Away from or towards black."""
    return _blended(torch.zeros_like(levels), levels, strength)


def sharpness(levels: Tensor, strength: Strength) -> Tensor:
    """Away from or towards a blurred image, but at its border."""
    channels, height, width = levels.shape[1:]
    if min(height, width) < 3:
        return levels
    kernel = levels.new_ones((channels, 1, 3, 3))
    kernel[:, :, 1, 1] = 5
    blurred = levels.clone()
    blurred[:, :, 1:-1, 1:-1] = F.conv2d(levels, kernel / 13, groups=channels)
    return _blended(blurred, levels, strength)


def rotate(levels: Tensor, strength: Strength) -> Tensor:
    """Turned about the centre; black comes in."""
    angle = strength.signs * (ANGLE * strength.part * math.pi / 180)
    return _moved(levels, xx=angle.cos(), xy=-angle.sin(), yx=angle.sin(), yy=angle.cos())


def shear_x(levels: Tensor, strength: Strength) -> Tensor:
    """Rows shifted by their distance from the middle row."""
    return _moved(levels, xy=strength.signs * (SHEAR * strength.part))


def shear_y(levels: Tensor, strength: Strength) -> Tensor:
    """Columns shifted by their distance from the middle column."""
    return _moved(levels, yx=strength.signs * (SHEAR * strength.part))


def translate_x(levels: Tensor, strength: Strength) -> Tensor:
    """Shifted to a side, by whole pixels."""
    return _moved(levels, x=strength.signs * round(SHIFT * strength.part * levels.shape[3]))


def translate_y(levels: Tensor, strength: Strength) -> Tensor:
    """Shifted up or down, by whole pixels."""
    return _moved(levels, y=strength.signs * round(SHIFT * strength.part * levels.shape[2]))


def cut_out(levels: Tensor, numbers: Tensor) -> Tensor:
    """A grey square in each image: side 0 .. half the shorter side, centre anywhere, what stands over is lost.

    Args:
        levels: [n, C, H, W], 0 .. 255.
        numbers: [3, n] in [0, 1): row and column of the centre, and the side.
    """
    height, width = levels.shape[2:]
    half = numbers[2] * (CUT * min(height, width) / 2)
    rows, columns = (torch.arange(side, device=levels.device) + 0.5 for side in (height, width))
    inside_rows = (rows - numbers[0, :, None] * height).abs() < half[:, None]
    inside_columns = (columns - numbers[1, :, None] * width).abs() < half[:, None]
    return levels.masked_fill(inside_rows[:, None, :, None] & inside_columns[:, None, None, :], GREY)


OPERATIONS: dict[str, Callable[[Tensor, Strength], Tensor]] = {
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "Posterize": posterize,
    "Solarize": solarize,
    "Color": color,
    "Contrast": contrast,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
}  # in the order of their numbers


def _grey(levels: Tensor) -> Tensor:
    """[n, 1, H, W]: luma of three channels, else their mean."""
    weights = (
        levels.new_tensor(LUMA) if levels.shape[1] == 3 else levels.new_full((levels.shape[1],), 1 / levels.shape[1])
    )
    return (levels * weights.view(1, -1, 1, 1)).sum(1, keepdim=True)


def _blended(plain: Tensor, levels: Tensor, strength: Strength) -> Tensor:
    """From the plain image to the image and beyond, by 1 + sign * strength."""
    factor = (1 + strength.signs * (CONTRAST * strength.part)).view(-1, 1, 1, 1)
    return (plain + factor * (levels - plain)).clamp(0, 255)


def _moved(
    levels: Tensor,
    *,
    xx: Tensor | float = 1.0,
    xy: Tensor | float = 0.0,
    x: Tensor | float = 0.0,
    yx: Tensor | float = 0.0,
    yy: Tensor | float = 1.0,
    y: Tensor | float = 0.0,
) -> Tensor:
    """Every pixel (x, y), counted from the centre, from (xx x + xy y + x, yx x + yy y + y), the nearest; black outside."""
    n, _, height, width = levels.shape
    theta = levels.new_empty((n, 2, 3))  # of coordinates in which the image is 2 x 2
    rows = (xx, xy, x, width, height), (yy, yx, y, height, width)
    for row, (own, other, shift, side, across) in enumerate(rows):
        theta[:, row, row], theta[:, row, 1 - row], theta[:, row, 2] = own, other, shift
        theta[:, row, 1 - row] *= across / side
        theta[:, row, 2] *= 2 / side
    grid = F.affine_grid(theta, list(levels.shape), align_corners=False)
    return F.grid_sample(levels, grid, mode="nearest", padding_mode="zeros", align_corners=False)
