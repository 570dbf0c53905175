"""SP: images that are alike to the teacher become alike to the student.

Source: Tung, Mori, Similarity-Preserving Knowledge Distillation, 2019, section 3.1, equations 1 to 4; weight as in
RepDistiller and mdistiller.
Needs: nothing. The images of a batch are compared with each other: of several processes each compares its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor

from edgekd.distillers.attention import float32, read
from edgekd.distillers.base import Distiller, Outputs, Progress, Wanted, supervised, teacher_of
from edgekd.distillers.stages import maps
from edgekd.taps import feature_taps


class SP(Distiller):
    """Similarities of the batch's images in the last stage: `CE + kd_weight * KL_T + beta * |G_t - G_s|_F^2 / B^2`.

    G [B, B]: dot products of the flattened maps, each row L2-normalised. Widths and sizes of the maps may differ.

    Args:
        beta: Weight of the similarities, >= 0.
        kd_weight: Weight of the teacher's logits, >= 0.
        temperature: T, > 0.
    """

    baseline = {"ce_weight": 1.0, "kd_weight": "kd_weight", "temperature": "temperature"}

    def __init__(
        self,
        *,
        beta: Annotated[float, Ge(0)] = 3000.0,
        kd_weight: Annotated[float, Ge(0)] = 0.0,
        temperature: Annotated[float, Gt(0)] = 4.0,
    ) -> None:
        super().__init__()
        self.beta, self.kd_weight, self.temperature = beta, kd_weight, temperature

    def wanted(self, student: Sequence[str], teacher: Sequence[str]) -> tuple[Wanted, Wanted]:
        """The map of the last stage of each."""
        self.student_taps = feature_taps(student, "stage", "student")[-1:]
        self.teacher_taps = feature_taps(teacher, "stage", "teacher")[-1:]
        return maps(self.student_taps), maps(self.teacher_taps)

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce`, `sp`, and `kd` when it has a weight."""
        guide = teacher_of(teacher)
        with float32(student.logits):
            ours, theirs = read(student, self.student_taps, "map")[0], read(guide, self.teacher_taps, "map")[0]
            loss = (_similarities(theirs) - _similarities(ours)).square().mean()
        return {
            **supervised(student, guide, target, self.kd_weight, self.temperature),
            "sp": self.beta * loss,
        }


def _similarities(value: Tensor) -> Tensor:
    """Row-normalised dot products [B, B] of maps [B, C, H, W]."""
    rows = value.float().flatten(1)
    return F.normalize(rows @ rows.T, dim=1)
