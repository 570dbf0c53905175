"""Random resized crops (`rrc`): 8 to 100 % of the area, aspect 3/4 to 4/3, resized to the network's input.

Uniform numbers are drawn for all images at once, ten tries each; which try fits only an image's own size decides. So the numbers
are the same on every device and for every photo, and a stored `Drawn` gives the same view again.

Source: C. Szegedy et al., "Going Deeper with Convolutions", 2015, section 6, as torchvision's RandomResizedCrop does it
(ten tries, then the largest centred crop of an allowed aspect).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from edgekd.data.base import Photos

AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)  # width / height
TRIES = 10
NUMBERS = 2 * TRIES + 2  # an image: area and aspect of each try, then the place


@dataclass(frozen=True)
class Uncut:
    """Whole photos that are cut to one size; stands where a tensor of images [N, H, W, C] would.

    Attributes:
        photos: The photos.
        size: (H, W) in pixels that they are cut to.
    """

    photos: Photos
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[N, H, W, C] of the cut images."""
        return (len(self.photos), *self.size, self.photos.channels)

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: Tensor | slice) -> Uncut:
        """Some of the photos."""
        return Uncut(self.photos.only(index if isinstance(index, slice) else index.cpu().numpy()), self.size)


def draw_crops(n: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers float32 [n, NUMBERS] in [0, 1), on the generator's device."""
    return torch.rand((n, NUMBERS), generator=generator, device=generator.device)


def boxes(numbers: Tensor, sides: Tensor) -> Tensor:
    """What to cut out.

    Args:
        numbers: What `draw_crops` gave.
        sides: [n, 2] int64, height and width of each image.

    Returns:
        [n, 4] int64: top, left, height, width.
    """
    numbers, sides = numbers.double().cpu(), sides.double()
    tries = numbers[:, : 2 * TRIES].view(-1, TRIES, 2)
    area = sides.prod(1, keepdim=True) * (AREA[0] + (AREA[1] - AREA[0]) * tries[:, :, 0])
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    aspect = (low + (high - low) * tries[:, :, 1]).exp()
    shapes = torch.stack([(area / aspect).sqrt().round(), (area * aspect).sqrt().round()], dim=2)
    fits = ((shapes > 0) & (shapes <= sides[:, None])).all(2)
    first = fits.int().argmax(1)
    chosen = shapes[torch.arange(len(shapes)), first]
    drawn = (numbers[:, -2:] * (sides - chosen + 1)).floor()
    centred = _largest(sides)
    corner = torch.where(fits.any(1)[:, None], drawn, ((sides - centred) / 2).floor())
    return torch.cat([corner, torch.where(fits.any(1)[:, None], chosen, centred)], dim=1).long()


def cut(images: Tensor | Uncut, numbers: Tensor | None) -> Tensor:
    """Cut every image and bring it to one size by antialiased bilinear interpolation.

    Args:
        images: uint8 [B, H, W, C], or whole photos.
        numbers: What `draw_crops` gave; None: the largest centred square.

    Returns:
        uint8 [B, H, W, C], channels last in memory too.
    """
    batch, height, width, channels = images.shape
    sides = _sides(images)
    if numbers is not None:
        found = boxes(numbers, sides)
    else:
        square = sides.min(1, keepdim=True).values.expand(-1, 2)
        found = torch.cat([(sides - square) // 2, square], dim=1)
    device = "cpu" if isinstance(images, Uncut) else images.device
    out = torch.empty((batch, height, width, channels), dtype=torch.uint8, device=device)
    for row, (top, left, tall, wide) in enumerate(found.tolist()):
        part = images.photos[row] if isinstance(images, Uncut) else images[row]
        part = part[top : top + tall, left : left + wide]
        whole = torch.from_numpy(part.copy()) if isinstance(part, np.ndarray) else part
        out[row] = _resized(whole.permute(2, 0, 1)[None], (height, width))[0].permute(1, 2, 0)
    return out


def _largest(sides: Tensor) -> Tensor:
    """[n, 2] height and width of the largest crop of an allowed aspect."""
    aspect = sides[:, 1] / sides[:, 0]
    height = torch.where(aspect < ASPECT[0], (sides[:, 1] / ASPECT[0]).round(), sides[:, 0])
    width = torch.where(aspect > ASPECT[1], (sides[:, 0] * ASPECT[1]).round(), sides[:, 1])
    return torch.stack([height, width], dim=1).clamp_min(1)


def _sides(images: Tensor | Uncut) -> Tensor:
    if isinstance(images, Uncut):
        return torch.from_numpy(images.photos.index[:, 1:].copy())
    return torch.tensor(images.shape[1:3]).expand(len(images), 2)


def _resized(part: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [1, C, h, w] -> uint8 [1, C, *size]. torch interpolates bytes on the CPU alone, five times as fast as floats there."""
    if part.device.type == "cpu":
        return functional.interpolate(part, size, mode="bilinear", antialias=True)
    return functional.interpolate(part.float(), size, mode="bilinear", antialias=True).round_().clamp_(0, 255).byte()
