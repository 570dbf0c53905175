"""Order and augmentation of the training images: a function of (seed, epoch), so a resumed run sees the same batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from edgekd.augment import apply, draw
from edgekd.crops import Uncut
from edgekd.fit import seeding
from edgekd.fit.cached import CachedViews
from edgekd.fit.distributed import ALONE, FEWEST, Group
from edgekd.strong import strengthen
from edgekd.taps import Outputs


@dataclass(frozen=True)
class TrainingData:
    """The images that a fit sees.

    Attributes:
        images: uint8 [N, H, W, C] in memory, or whole photos.
        labels: int64 [N].
        augment: Augmentation tokens, e.g. `("crop4", "flip")`.
        views: Fixed views to show instead of new ones, with the teacher's answers; None: new views every epoch.
    """

    images: Tensor | Uncut
    labels: Tensor
    augment: tuple[str, ...]
    views: CachedViews | None = None


@dataclass(frozen=True)
class Batch:
    """One step's images, or this process's part of them.

    Attributes:
        images: float32 [B, C, H, W] in [0, 1], channels_last.
        labels: int64 [B].
        index: int64 [B], position in the training data.
        total: Images of the step in all processes.
        seen: The teacher's stored outputs; None: it has to look on.
        strong: Stronger views of the same images, as many as the method wants; like `images`.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    total: int
    seen: Outputs | None = None
    strong: tuple[Tensor, ...] = ()

    @property
    def views(self) -> tuple[Tensor, ...]:
        """All views, the weak one first."""
        return (self.images, *self.strong)


def count(n: int, size: int, world: int = 1) -> int:
    """Steps of an epoch: the last partial batch is kept unless a process would get fewer than two images of it."""
    full, rest = divmod(n, size)
    return full + (rest >= FEWEST * world)


def batches(
    data: TrainingData, size: int, seed: int, epoch: int, device: str, group: Group = ALONE, views: int = 1
) -> Iterator[Batch]:
    """The batches of one epoch (counted from 0), on the device: of each the part of this process.

    Order and augmentation are drawn for whole batches, in every process alike: n processes see what one would see. Strong
    views, `views` - 1 of each image, are made from the weak one; each process draws its own.
    """
    n, pixels = len(data.labels), (data.images.shape[1], data.images.shape[2])
    order = torch.randperm(n, generator=seeding.generator(seed, "order", epoch))
    random = seeding.generator(seed, "augment", epoch)
    stronger = seeding.generator(seed, "strong", epoch, *group.stream)
    for step in range(count(n, size, group.world)):
        whole = order[step * size : (step + 1) * size]
        part = group.part(len(whole))
        index, seen = whole[part], None
        if data.views is None:
            drawn = draw(data.augment, len(whole), pixels, random)[part]
        else:
            rows = data.views.rows(index, epoch)
            drawn, seen = data.views.drawn[rows], data.views.outputs(rows, index, device)
        weak = apply(data.images[index], drawn)
        strong = tuple(strengthen(weak, stronger).to(device, non_blocking=True) for _ in range(views - 1))
        images = weak.to(device, non_blocking=True)
        yield Batch(images, data.labels[index].to(device), index.to(device), len(whole), seen, strong)
