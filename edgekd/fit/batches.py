"""Order and augmentation of the training images: a function of (seed, epoch), so a resumed run sees the same batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from edgekd.augment import augment
from edgekd.fit import seeding

FEWEST = 2  # BatchNorm over a batch of one vector has no variance


@dataclass(frozen=True)
class TrainingData:
    """The images that a fit sees.

    Attributes:
        images: uint8 [N, H, W, C], in memory.
        labels: int64 [N].
        augment: Augmentation tokens, e.g. `("crop4", "flip")`.
    """

    images: Tensor
    labels: Tensor
    augment: tuple[str, ...]


@dataclass(frozen=True)
class Batch:
    """One step's images.

    Attributes:
        images: float32 [B, C, H, W] in [0, 1], channels_last.
        labels: int64 [B].
        index: int64 [B], position in the training data.
    """

    images: Tensor
    labels: Tensor
    index: Tensor


def count(n: int, size: int) -> int:
    """Steps of an epoch: the last partial batch is kept unless it would hold one image."""
    full, rest = divmod(n, size)
    return full + (rest >= FEWEST)


def batches(data: TrainingData, size: int, seed: int, epoch: int, device: str) -> Iterator[Batch]:
    """The batches of one epoch (counted from 0), on the device."""
    n = len(data.labels)
    order = torch.randperm(n, generator=seeding.generator(seed, "order", epoch))
    random = seeding.generator(seed, "augment", epoch)
    for step in range(count(n, size)):
        index = order[step * size : (step + 1) * size]
        images = augment(data.images[index], data.augment, random)
        yield Batch(images.to(device, non_blocking=True), data.labels[index].to(device), index.to(device))
