"""How near each student tap is to each teacher tap: cosines and distances [B, N_S, N_T] of their values (AFD, RTK).

Source: Ji, Heo, Park, Show, Attend and Distill, AAAI 2021, arXiv 2102.02973, section 3.3; channel values are an edgekd
reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.distillers.attention import GroupedLinear

PairLoss = Literal["mse", "smooth_l1", "cosine"]

EPSILON = 1e-12  # least norm of a vector that is divided by it
FLAT = 1e-3  # a map whose deviations from its mean are smaller than that part of it has none


def map_pairs(
    student: Sequence[Tensor], teacher: Sequence[Tensor], loss: PairLoss, *, centre: bool = False
) -> tuple[Tensor, Tensor]:
    """Cosines and distances [B, N_S, N_T] of energy maps [B, H, W]: the student's resized (adaptive average pooling) to
    each resolution of the teacher, all maps flattened and L2-normalised.

    Args:
        student: Its maps.
        teacher: Its maps.
        loss: See `vector_pairs`.
        centre: Take its mean from each (resized) map first, so that a cosine is a correlation; a flat map becomes 0.
    """
    ready = _centred if centre else _as_it_is
    pairs, runs = [], [(run, _norms(run.flatten(2))) for run in map(ready, _stacked(student))]
    for maps in map(ready, _stacked(teacher)):
        if loss == "smooth_l1":  # of the maps themselves, not of their dot products
            resized = torch.cat([ready(_pooled(run, *maps.shape[2:])).flatten(2) for run, _ in runs], dim=1)
            pairs.append(vector_pairs(resized, maps.flatten(2), loss))
            continue
        parts = [_dots(run, norms, maps, ready) for run, norms in runs]
        dots, norms = (torch.cat(side, dim=1) for side in zip(*parts, strict=True))
        pairs.append(_compared(dots, norms, _norms(maps.flatten(2)), maps.shape[2] * maps.shape[3], loss))
    return torch.cat([cosine for cosine, _ in pairs], dim=2), torch.cat([distance for _, distance in pairs], dim=2)


def vector_pairs(student: Tensor, teacher: Tensor, loss: PairLoss) -> tuple[Tensor, Tensor]:
    """Cosines and distances [B, m, n] of vectors [B, m, P] and [B, n, P], all L2-normalised.

    mse: mean over P of the squared difference, `(|s|^2 + |t|^2 - 2 <s, t>) / P`; the norms are 1, or 0 for a dead map,
    and carry no gradient. smooth_l1: mean over P, threshold 1. cosine: `1 - <s, t>`.
    """
    if loss != "smooth_l1":
        dots = torch.bmm(student, teacher.transpose(1, 2))
        return _compared(dots, _norms(student), _norms(teacher), student.shape[2], loss)
    student, teacher = F.normalize(student, dim=2, eps=EPSILON), F.normalize(teacher, dim=2, eps=EPSILON)
    gaps = (student - t.unsqueeze(1) for t in teacher.unbind(1))
    columns = [F.smooth_l1_loss(gap, torch.zeros_like(gap), reduction="none").mean(2) for gap in gaps]
    return torch.bmm(student, teacher.transpose(1, 2)), torch.stack(columns, dim=2)


class ChannelPairs(nn.Module):
    """Pairs of pooled vectors: the student's projected to each width of the teacher (a 1x1 convolution, which pooling
    lets through), both L2-normalised.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        layers = {str(width): GroupedLinear(student, width, generator, bias=False) for width in dict.fromkeys(teacher)}
        self.projections = nn.ModuleDict(layers)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], loss: PairLoss) -> tuple[Tensor, Tensor]:
        """Cosines and distances [B, N_S, N_T] of pooled taps [B, C]."""
        pairs = []
        for width, run in groupby(teacher, key=lambda pooled: pooled.shape[1]):
            projected = self.projections[str(width)](student)
            pairs.append(vector_pairs(projected, torch.stack([pooled.float() for pooled in run], dim=1), loss))
        return torch.cat([cosine for cosine, _ in pairs], dim=2), torch.cat([distance for _, distance in pairs], dim=2)


def _as_it_is(maps: Tensor) -> Tensor:
    return maps


def _centred(maps: Tensor) -> Tensor:
    """Maps [B, n, H, W] less their means."""
    means = maps.mean((2, 3), keepdim=True)
    rest = maps - means
    flat = rest.detach().square().mean((2, 3), keepdim=True) <= (FLAT * means.detach()).square()
    return rest.masked_fill(flat, 0.0)


def _dots(student: Tensor, norms: Tensor, teacher: Tensor, ready: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Dot products [B, m, n] of maps [B, m, H, W], resized, and maps [B, n, h, w], and the norms [B, m] of the resized.

    A student map that would grow by whole factors is left as it is: repeating its pixels and multiplying with the
    teacher's map is multiplying with the sums of the teacher's map, which carries no gradient.
    """
    (h, w), (height, width) = student.shape[2:], teacher.shape[2:]
    down, across = height // h, width // w
    if (h * down, w * across) != (height, width):
        student = ready(_pooled(student, height, width))
        norms, down, across = _norms(student.flatten(2)), 1, 1
    summed = _summed(_summed(teacher, 2, down), 3, across)
    return torch.bmm(student.flatten(2), summed.flatten(2).transpose(1, 2)), norms * math.sqrt(down * across)


def _compared(dots: Tensor, student: Tensor, teacher: Tensor, size: int, loss: PairLoss) -> tuple[Tensor, Tensor]:
    """Cosines and distances from dot products [B, m, n] and the norms [B, m] and [B, n] of vectors of that size."""
    rows, columns = student.clamp_min(EPSILON).unsqueeze(2), teacher.clamp_min(EPSILON).unsqueeze(1)
    cosine = dots / (rows * columns)
    if loss == "cosine":
        return cosine, 1 - cosine
    units = (student.unsqueeze(2) / rows).detach().square() + (teacher.unsqueeze(1) / columns).square()
    return cosine, (units - 2 * cosine).clamp_min(0) / size


def _norms(vectors: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=2)
    return norms


def _stacked(maps: Sequence[Tensor]) -> list[Tensor]:
    """Neighbouring maps of one resolution as one tensor [B, n, H, W]."""
    runs = groupby(maps, key=lambda energy: energy.shape[1:])
    return [torch.stack([energy.float() for energy in run], dim=1) for _, run in runs]


def _summed(maps: Tensor, dim: int, by: int) -> Tensor:
    """Sums of `by` neighbours along one dimension; slice by slice, torch's sum over so few is several times slower."""
    sizes = [*maps.shape[:dim], -1, by, *maps.shape[dim + 1 :]]
    first, *others = maps.view(sizes).unbind(dim + 1)
    return sum(others, first)


def _pooled(maps: Tensor, height: int, width: int) -> Tensor:
    """Adaptive average pooling [B, n, H, W] -> [B, n, height, width], rows and columns as two matrix products: up to ten
    times faster on a CPU than torch's kernel, and the resizing was a third of the loss.
    """
    h, w = maps.shape[2:]
    return maps if (h, w) == (height, width) else _windows(h, height, maps).T @ (maps @ _windows(w, width, maps))


def _windows(inputs: int, outputs: int, like: Tensor) -> Tensor:
    """[inputs, outputs]: column o averages the window of output o."""
    return F.adaptive_avg_pool1d(torch.eye(inputs, device=like.device).unsqueeze(0), outputs)[0]
