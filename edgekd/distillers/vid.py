"""VID: the student's maps must predict the teacher's, each channel with a variance of its own.

Source: Ahn, Hu, Damianou, Lawrence, Dai, Variational Information Distillation for Knowledge Transfer, 2019, equations 4 to
6; regressor, taps and weight as in RepDistiller and mdistiller. Differs: the variances are trained, as the paper has them
(mdistiller leaves them out of the optimizer).
Needs: nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from edgekd.distillers.attention import float32, read
from edgekd.distillers.base import Context, Distiller, Outputs, Progress, Wanted, supervised, teacher_of
from edgekd.distillers.modules import made
from edgekd.distillers.stages import deepest, level, maps

LEAST = 1e-5  # of a variance
INITIAL = 5.0  # variance before the first step


class VID(Distiller):
    """A Gaussian of the teacher's maps around the student's: `CE + kd_weight * KL_T + beta * sum_i NLL_i`.

    NLL: `0.5 * mean((r(s) - t)^2 / var_c + log var_c)`; it falls below 0 once variances are below 1. Stages are paired from
    the deep end, of two sizes the larger is pooled.

    Args:
        beta: Weight of the stages, >= 0.
        kd_weight: Weight of the teacher's logits, >= 0.
        temperature: T, > 0.
    """

    baseline = {"ce_weight": 1.0, "kd_weight": "kd_weight", "temperature": "temperature"}

    def __init__(
        self,
        *,
        beta: Annotated[float, Ge(0)] = 1.0,
        kd_weight: Annotated[float, Ge(0)] = 0.0,
        temperature: Annotated[float, Gt(0)] = 4.0,
    ) -> None:
        super().__init__()
        self.beta, self.kd_weight, self.temperature = beta, kd_weight, temperature

    def wanted(self, student: Sequence[str], teacher: Sequence[str]) -> tuple[Wanted, Wanted]:
        """The maps of the paired stages."""
        self.student_taps, self.teacher_taps = deepest(student, teacher)
        return maps(self.student_taps), maps(self.teacher_taps)

    def setup(self, context: Context) -> None:
        """Make a regressor and variances for each pair of stages."""
        ours = read(context.student_outputs, self.student_taps, "map")
        theirs = read(teacher_of(context.teacher_outputs), self.teacher_taps, "map")
        pairs = [(s.shape[1], t.shape[1]) for s, t in zip(ours, theirs, strict=True)]
        self.gaussians = nn.ModuleList(made(partial(Gaussian, *pair), context.generator) for pair in pairs)

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce`, `vid`, and `kd` when it has a weight."""
        guide = teacher_of(teacher)
        with float32(student.logits):
            ours, theirs = read(student, self.student_taps, "map"), read(guide, self.teacher_taps, "map")
            each = zip(self.gaussians, ours, theirs, strict=True)
            loss = torch.stack([gaussian(s, t) for gaussian, s, t in each]).sum()
        return {
            **supervised(student, guide, target, self.kd_weight, self.temperature),
            "vid": self.beta * loss,
        }


class Gaussian(nn.Module):
    """Of a teacher's map of `outputs` channels around three 1x1 convolutions (without bias) of the student's."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.regressor = nn.Sequential(
            *(nn.Conv2d(inputs, outputs, 1, bias=False), nn.ReLU()),
            *(nn.Conv2d(outputs, outputs, 1, bias=False), nn.ReLU()),
            nn.Conv2d(outputs, outputs, 1, bias=False),
        )
        self.rho = nn.Parameter(torch.full((outputs,), math.log(math.expm1(INITIAL - LEAST))))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean negative log-likelihood, without its constant, of teacher maps [B, C_t, h, w] given [B, C_s, H, W]."""
        ours, theirs = level(student.float(), teacher.float())
        variance = (F.softplus(self.rho) + LEAST).view(1, -1, 1, 1)
        squared: Tensor = (self.regressor(ours) - theirs).square()
        return 0.5 * (squared / variance + variance.log()).mean()
