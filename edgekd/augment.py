"""Batched augmentation on tensors: one gather a batch, random numbers from the given generator alone.

Source: the CIFAR protocol (zero-pad k, random crop of the original size, mirror with probability 1/2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor

from edgekd.data.base import check_augment


def augment(images: Tensor, spec: Sequence[str], generator: torch.Generator) -> Tensor:
    """A random crop and flip of every image, on the images' device.

    Args:
        images: [B, H, W, C] uint8.
        spec: Tokens: `crop<k>` = zero-pad k pixels and crop back to H x W at a uniform offset; `flip` = mirror left to
            right with probability 1/2. Empty: only the conversion.
        generator: Drawn from on its own device: a CPU generator gives the same crops on every device.

    Returns:
        [B, C, H, W] float32 in [0, 1], channels_last.

    Raises:
        RecipeError: An unknown token.
    """
    check_augment(spec, "data.augment")
    batch, height, width, channels = images.shape
    pad = next((int(token.removeprefix("crop")) for token in spec if token.startswith("crop")), 0)
    if spec:
        rows = _count(height, images).expand(batch, height)
        columns = _count(width, images).expand(batch, width)
        if "flip" in spec:
            mirrored = _draw(2, (batch, 1), images, generator).bool()
            columns = torch.where(mirrored, columns.flip(1), columns)
        if pad:
            offsets = _draw(2 * pad + 1, (2, batch, 1), images, generator)
            rows, columns = rows + offsets[0], columns + offsets[1]
        padded = functional.pad(images, (0, 0, pad, pad, pad, pad)) if pad else images
        # Pixel numbers in the padded batch laid flat: index_select copies whole pixels and is the fastest form measured on CPU.
        first = _count(batch, images)[:, None] * (height + 2 * pad)
        numbers = ((first + rows) * (width + 2 * pad))[:, :, None] + columns[:, None, :]
        images = padded.reshape(-1, channels).index_select(0, numbers.flatten()).view(batch, height, width, channels)
    return images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last).div_(255)


def _draw(high: int, shape: tuple[int, ...], images: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform integers 0 .. high - 1 on the images' device."""
    return torch.randint(high, shape, generator=generator, device=generator.device, dtype=torch.int32).to(images.device)


def _count(n: int, images: Tensor) -> Tensor:
    """0 .. n - 1 on the images' device; int32 halves the traffic of the gather and reaches 2^31 pixels a batch."""
    return torch.arange(n, device=images.device, dtype=torch.int32)
