"""Contrast of embeddings with stored rows: which rows, and the loss (CRD)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edgekd.distillers.drawing import generator_on

EPSILON = 1e-7  # added to the sums of probabilities
MANY = 2**62  # an integer below it, modulo a number of images, is uniform


class Negatives(nn.Module):
    """Draws images of other classes.

    Args:
        labels: [N] int64 of all training images; more than one class.
        k: How many for each image.
    """

    labels: Tensor
    counts: Tensor
    starts: Tensor
    order: Tensor

    def __init__(self, labels: Tensor, k: int) -> None:
        super().__init__()
        counts = torch.bincount(labels)
        largest = int(counts.max())
        self.k, self.too_few = k, len(labels) - largest < k
        self.window = min(len(labels), k + largest)
        facts = {"labels": labels, "counts": counts, "starts": counts.cumsum(0) - counts, "order": labels.argsort()}
        for name, fact in facts.items():
            self.register_buffer(name, fact, persistent=False)

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Rows [B, k] of images of other classes than those of the rows `index` [B].

        Each once: what follows a start of the image's own in one permutation of all images, without its own class. With
        replacement where some class has too few others.
        """
        random, n, device = generator_on(generator, index.device), len(self.labels), index.device
        own = self.labels[index].unsqueeze(1)
        if self.too_few:
            places = torch.randint(MANY, (len(index), self.k), generator=random, device=device) % (n - self.counts[own])
            return self.order[places + self.counts[own] * (places >= self.starts[own])]
        order = torch.randperm(n, generator=random, device=device)
        starts = torch.randint(n, (len(index), 1), generator=random, device=device)
        window = order[(starts + torch.arange(self.window, device=device)) % n]
        other = self.labels[window] != own
        return window[other & (other.cumsum(1, dtype=torch.int32) <= self.k)].view(len(index), self.k)


def scored(embeddings: Tensor, rows: Tensor, drawn: Tensor, temperature: float) -> Tensor:
    """`exp(<row, e> / temperature)` [B, 1 + k] of embeddings [B, dim] and those of the rows [N, dim] that `drawn` names."""
    return ((embeddings @ rows.T).gather(1, drawn) / temperature).exp()


def contrast(probabilities: Tensor, rows: int) -> Tensor:
    """`-mean_b [log(P_own / (P_own + c)) + sum_k log(c / (P_k + c))]`, c = k / rows, of [B, 1 + k], the own first."""
    noise = (probabilities.shape[1] - 1) / rows
    sums = probabilities + noise + EPSILON
    own = (probabilities[:, 0] / sums[:, 0]).log()
    return -(own + (noise / sums[:, 1:]).log().sum(1)).mean()


def gathered(values: Tensor) -> Tensor:
    """The rows [n, ...] of all processes in the order of their ranks; they may hold different numbers of rows."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    counts = [0] * dist.get_world_size()
    dist.all_gather_object(counts, len(values))
    padded = values.new_zeros(max(counts), *values.shape[1:])
    padded[: len(values)] = values
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
