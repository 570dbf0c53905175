"""NST: where the student's neurons fire, as a distribution over positions, follows the teacher's.

Source: Huang, Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, 2017, section 4, with the
polynomial kernel (degree 2, no offset); taps and weight as in RepDistiller and mdistiller.
Needs: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor

from edgekd.distillers.attention import float32, read
from edgekd.distillers.base import Distiller, Outputs, Progress, Wanted, supervised, teacher_of
from edgekd.distillers.stages import deepest, level, maps


class NST(Distiller):
    """Neuron selectivity of each stage: `CE + kd_weight * KL_T + beta * sum_i MMD^2(s_i, t_i)`.

    MMD^2: mean k(t, t) + mean k(s, s) - 2 mean k(s, t) over pairs of channels, k(x, y) = <x, y>^2, of channel maps
    L2-normalised over positions. Stages are paired from the deep end, of two sizes the larger is pooled. At one pixel every
    channel is alike, and a stage teaches nothing.

    Args:
        beta: Weight of the stages, >= 0.
        kd_weight: Weight of the teacher's logits, >= 0.
        temperature: T, > 0.
    """

    baseline = {"ce_weight": 1.0, "kd_weight": "kd_weight", "temperature": "temperature"}

    def __init__(
        self,
        *,
        beta: Annotated[float, Ge(0)] = 50.0,
        kd_weight: Annotated[float, Ge(0)] = 0.0,
        temperature: Annotated[float, Gt(0)] = 4.0,
    ) -> None:
        super().__init__()
        self.beta, self.kd_weight, self.temperature = beta, kd_weight, temperature

    def wanted(self, student: Sequence[str], teacher: Sequence[str]) -> tuple[Wanted, Wanted]:
        """The maps of the paired stages."""
        self.student_taps, self.teacher_taps = deepest(student, teacher)
        return maps(self.student_taps), maps(self.teacher_taps)

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce`, `nst`, and `kd` when it has a weight."""
        guide = teacher_of(teacher)
        with float32(student.logits):
            ours, theirs = read(student, self.student_taps, "map"), read(guide, self.teacher_taps, "map")
            loss = torch.stack([discrepancy(s, t) for s, t in zip(ours, theirs, strict=True)]).sum()
        return {
            **supervised(student, guide, target, self.kd_weight, self.temperature),
            "nst": self.beta * loss,
        }


def discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over the batch of MMD^2 of the channels of two maps [B, C_s, H, W] and [B, C_t, h, w].

    No table of all pairs of channels at all positions is made: `sum_ij <x_i, y_j>^2` is both the squared norm of X Y^T
    [C_s, C_t] and the product of X^T X and Y^T Y [P, P], P positions, and the smaller of the two forms is taken.
    """
    ours, theirs = level(student.float(), teacher.float())
    x, y = F.normalize(ours.flatten(2), dim=2), F.normalize(theirs.flatten(2), dim=2)
    if x.shape[2] <= max(x.shape[1], y.shape[1]):
        gap = x.transpose(1, 2) @ x / x.shape[1] - y.transpose(1, 2) @ y / y.shape[1]
        return gap.square().sum((1, 2)).mean()
    return _kernel(y, y) + _kernel(x, x) - 2 * _kernel(x, y)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """Mean of <x_i, y_j>^2 over batch and pairs of rows [B, C, P]."""
    return torch.bmm(x, y.transpose(1, 2)).square().mean()
