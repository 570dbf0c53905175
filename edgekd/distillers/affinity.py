"""How alike the parts of a map are to each other, and how far two networks differ in that (HMAT).

Part of the edgekd reconstruction of HMAT.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

SIDE = 16  # pixels a side of the maps whose positions are compared, at most: affinities grow with its fourth power
TAU = 0.1  # softmax temperature of affinities: with 1 the rows are nearly uniform and the losses too small

AffinityLoss = Literal["kl", "mse"]


def affinity_distance(student: Tensor, teacher: Tensor, loss: AffinityLoss) -> Tensor:
    """Distance of the cosines [B, N, N] among N vectors of each: [B, N, P] of the student, [B, N, p] of the teacher.

    kl: mean over batch and rows of `KL(softmax(E_t / tau) || softmax(E_s / tau))`; mse: mean of `(E_s - E_t)^2`.
    """
    x, y = F.normalize(student, dim=2), F.normalize(teacher, dim=2)
    ours, theirs = x @ x.transpose(1, 2), y @ y.transpose(1, 2)
    if loss == "mse":
        return F.mse_loss(ours, theirs)
    log_s, log_t = (ours / TAU).log_softmax(2), (theirs / TAU).log_softmax(2)
    return F.kl_div(log_s, log_t, reduction="sum", log_target=True) / log_s.shape[:2].numel()


def positions(value: Tensor, other: Tensor) -> Tensor:
    """Its channels at each position, [B, N, C], of a map pooled to the smaller size of the two, at most 16x16."""
    height, width = (min(SIDE, value.shape[side], other.shape[side]) for side in (2, 3))
    return F.adaptive_avg_pool2d(value, (height, width)).flatten(2).transpose(1, 2)
