"""How near each student tap is to each teacher tap: cosines and distances [B, N_S, N_T] of their values (AFD, RTK).

Source: Ji, Heo, Park, Show, Attend and Distill, AAAI 2021, arXiv 2102.02973, section 3.3; channel values are an edgekd
reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.distillers.attention import GroupedLinear

PairLoss = Literal["mse", "smooth_l1", "cosine"]


def map_pairs(student: Sequence[Tensor], teacher: Sequence[Tensor], loss: PairLoss) -> tuple[Tensor, Tensor]:
    """Cosines and distances [B, N_S, N_T] of energy maps [B, H, W]: the student's resized (adaptive average pooling) to
    each resolution of the teacher, once each, all maps flattened and L2-normalised.
    """
    resized: dict[tuple[int, int], Tensor] = {}
    pairs = []
    for _, run in groupby(teacher, key=lambda energy: energy.shape[1:]):
        maps = torch.stack([energy.float() for energy in run], dim=1)
        size = (maps.shape[2], maps.shape[3])
        if size not in resized:
            resized[size] = _resized(student, size)
        pairs.append(vector_pairs(resized[size], F.normalize(maps.flatten(2), dim=2, eps=1e-12), loss))
    return torch.cat([cosine for cosine, _ in pairs], dim=2), torch.cat([distance for _, distance in pairs], dim=2)


def vector_pairs(student: Tensor, teacher: Tensor, loss: PairLoss) -> tuple[Tensor, Tensor]:
    """Cosines and distances [B, N_S, n] of L2-normalised vectors [B, N_S, P] and [B, n, P].

    mse: mean over P of the squared difference, `(|s|^2 + |t|^2 - 2 <s, t>) / P`; the norms are 1, or 0 for a dead map,
    and carry no gradient. smooth_l1: mean over P, threshold 1. cosine: `1 - <s, t>`.
    """
    cosine = torch.bmm(student, teacher.transpose(1, 2))
    if loss == "cosine":
        return cosine, 1 - cosine
    if loss == "smooth_l1":
        gaps = (student - t.unsqueeze(1) for t in teacher.unbind(1))
        columns = [F.smooth_l1_loss(gap, torch.zeros_like(gap), reduction="none").mean(2) for gap in gaps]
        return cosine, torch.stack(columns, dim=2)
    norms = student.detach().square().sum(2).unsqueeze(2) + teacher.square().sum(2).unsqueeze(1)
    return cosine, (norms - 2 * cosine).clamp_min(0) / student.shape[2]


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
            projected = F.normalize(self.projections[str(width)](student), dim=2, eps=1e-12)
            target = torch.stack([pooled.float() for pooled in run], dim=1)
            pairs.append(vector_pairs(projected, F.normalize(target, dim=2, eps=1e-12), loss))
        return torch.cat([cosine for cosine, _ in pairs], dim=2), torch.cat([distance for _, distance in pairs], dim=2)


def _resized(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    parts = []
    for _, run in groupby(maps, key=lambda energy: energy.shape[1:]):
        parts.append(_pooled(torch.stack([energy.float() for energy in run], dim=1), *size).flatten(2))
    return F.normalize(torch.cat(parts, dim=1), dim=2, eps=1e-12)


def _pooled(maps: Tensor, height: int, width: int) -> Tensor:
    """Adaptive average pooling [B, n, H, W] -> [B, n, height, width], rows and columns as two matrix products: up to ten
    times faster on a CPU than torch's kernel, and the resizing was a third of the loss.
    """
    h, w = maps.shape[2:]
    return maps if (h, w) == (height, width) else _windows(h, height, maps).T @ (maps @ _windows(w, width, maps))


def _windows(inputs: int, outputs: int, like: Tensor) -> Tensor:
    """[inputs, outputs]: column o averages the window of output o."""
    return F.adaptive_avg_pool1d(torch.eye(inputs, device=like.device).unsqueeze(0), outputs)[0]
