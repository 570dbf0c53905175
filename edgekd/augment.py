"""Batched augmentation on tensors: first drawn, then carried out by one gather a batch.

Source: the CIFAR protocol (zero-pad k, random crop of the original size, mirror with probability 1/2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

from edgekd.crops import Uncut, cut, draw_crops
from edgekd.data.base import check_augment


@dataclass(frozen=True)
class Drawn:
    """What was drawn for n images; `drawn[index]` is that of some of them. A token that is not there leaves None.

    Attributes:
        spec: The tokens that it was drawn for.
        mirrored: `flip`: bool [n].
        offsets: `crop<k>`: int32 [n, 2], row and column of the crop in the padded image, 0 .. 2 k.
        crops: `rrc`: float32 [n, 22], see `crops`.
    """

    spec: tuple[str, ...]
    mirrored: Tensor | None = None
    offsets: Tensor | None = None
    crops: Tensor | None = None

    def __getitem__(self, index: Tensor | slice) -> Drawn:
        return Drawn(self.spec, **{name: values[index] for name, values in self.tensors.items()})

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that was drawn, by the name of its field; with `spec` they make the same `Drawn` again."""
        return {name: values for name, values in vars(self).items() if isinstance(values, Tensor)}


def augment(images: Tensor | Uncut, spec: Sequence[str], generator: torch.Generator) -> Tensor:
    """A random crop and flip of every image, on the images' device.

    Args:
        images: [B, H, W, C] uint8, or whole photos that are cut to one size.
        spec: Tokens: `crop<k>` = zero-pad k pixels and crop back to H x W at a uniform offset; `rrc` = a random
            part of the image, resized (see `crops`); `flip` = mirror left to right with probability 1/2. Empty: only the
            conversion; a whole photo is cut to its centre square.
        generator: Drawn from on its own device: a CPU generator gives the same crops on every device.

    Returns:
        [B, C, H, W] float32 in [0, 1], channels_last.

    Raises:
        RecipeError: An unknown token.
    """
    return apply(images, draw(spec, len(images), (images.shape[1], images.shape[2]), generator))


def draw(spec: Sequence[str], n: int, size: tuple[int, int], generator: torch.Generator) -> Drawn:
    """The random part of `augment` for n images of (H, W) pixels, on the generator's device.

    Raises:
        RecipeError: An unknown token.
    """
    check_augment(spec, "data.augment")
    pad = _pad(spec)
    mirrored = _integers(2, (n, 1), generator)[:, 0].bool() if "flip" in spec else None
    offsets = _integers(2 * pad + 1, (2, n, 1), generator)[:, :, 0].T if pad else None
    crops = draw_crops(n, generator) if "rrc" in spec else None
    return Drawn(tuple(spec), mirrored, offsets, crops)


def apply(images: Tensor | Uncut, drawn: Drawn) -> Tensor:
    """Carry out what was drawn for these images; see `augment` for shapes."""
    if drawn.crops is not None or isinstance(images, Uncut):
        images = cut(images, drawn.crops)
    batch, height, width, channels = images.shape
    pad = _pad(drawn.spec)
    if drawn.mirrored is not None or drawn.offsets is not None:
        rows = _count(height, images).expand(batch, height)
        columns = _count(width, images).expand(batch, width)
        if drawn.mirrored is not None:
            columns = torch.where(drawn.mirrored.to(images.device)[:, None], columns.flip(1), columns)
        if drawn.offsets is not None:
            offsets = drawn.offsets.to(images.device)
            rows, columns = rows + offsets[:, :1], columns + offsets[:, 1:]
        padded = functional.pad(images, (0, 0, pad, pad, pad, pad)) if pad else images
        # Pixel numbers in the padded batch laid flat: index_select copies whole pixels and is the fastest form measured on CPU.
        first = _count(batch, images)[:, None] * (height + 2 * pad)
        numbers = ((first + rows) * (width + 2 * pad))[:, :, None] + columns[:, None, :]
        images = padded.reshape(-1, channels).index_select(0, numbers.flatten()).view(batch, height, width, channels)
    return images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last).div_(255)


def _pad(spec: Sequence[str]) -> int:
    return next((int(token.removeprefix("crop")) for token in spec if token.startswith("crop")), 0)


def _integers(high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform integers 0 .. high - 1."""
    return torch.randint(high, shape, generator=generator, device=generator.device, dtype=torch.int32)


def _count(n: int, images: Tensor) -> Tensor:
    """0 .. n - 1 on the images' device; int32 halves the traffic of the gather and reaches 2^31 pixels a batch."""
    return torch.arange(n, device=images.device, dtype=torch.int32)
