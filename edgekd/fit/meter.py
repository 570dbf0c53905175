"""Loss terms of an epoch: their means, and the first one that is no number."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from edgekd.errors import Diverged, StageFailed
from edgekd.fit.distributed import Group

READ_EVERY = {"cpu": 1}  # steps between two reads of the losses; elsewhere a read waits for the device
READ_EVERY_ELSEWHERE = 50


class Meter:
    """Collects the terms of each step and reads them from the device now and then.

    Args:
        where: The step, for errors.
        epoch: Counted from 1, for errors.
        device: Where the losses live.
        group: The processes whose parts of a batch make one mean.
    """

    def __init__(self, where: str, epoch: int, device: str, group: Group) -> None:
        self.where, self.epoch, self.group = where, epoch, group
        self.every = READ_EVERY.get(device, READ_EVERY_ELSEWHERE)
        self.names: tuple[str, ...] = ()
        self.pending: list[tuple[Tensor, int]] = []
        self.totals: dict[str, float] = {}
        self.images = 0
        self.steps = 0

    def add(self, terms: Mapping[str, Tensor], images: int, share: float = 1.0) -> None:
        """Take one step's terms (scalars, means over this process's part of `images` images).

        Args:
            terms: By name.
            images: Of all processes.
            share: This process's part of the images x the number of processes.

        Raises:
            StageFailed: A term is NaN or infinite, or the method gives other terms than before.
        """
        if self.names and self.names != tuple(terms):
            found = f"loss terms {', '.join(terms)} after {', '.join(self.names)}"
            raise StageFailed(self.where, found, "the same terms in every step (0 where one does not apply)")
        self.names = tuple(terms)
        values = torch.stack([term.detach().float() for term in terms.values()])
        self.pending.append((values if share == 1 else values * share, images))
        if len(self.pending) >= self.every:
            self.read()

    def read(self) -> None:
        """Fetch what is pending.

        Raises:
            StageFailed: A term is NaN or infinite.
        """
        for values, (_, images) in zip(self._fetched(), self.pending, strict=True):
            self.steps += 1
            for name, value in zip(self.names, values, strict=True):
                if not math.isfinite(value):
                    raise Diverged(
                        self.where,
                        f"loss term {name!r} is {value} at epoch {self.epoch}, step {self.steps}",
                        "a finite loss",
                        "a lower fit.lr, a warm-up (fit.warmup) or a smaller weight of this term",
                    )
                self.totals[name] = self.totals.get(name, 0.0) + value * images
            self.images += images
        self.pending.clear()

    def means(self) -> dict[str, float]:
        """Mean of each term over the images so far read, and their sum as `loss`."""
        terms = {name: total / max(self.images, 1) for name, total in self.totals.items()}
        return {"loss": sum(terms.values()), **terms}

    def _fetched(self) -> list[list[float]]:
        if not self.pending:
            return []
        values: list[list[float]] = self.group.average(torch.stack([values for values, _ in self.pending])).tolist()
        return values
