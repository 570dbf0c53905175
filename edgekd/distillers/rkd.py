"""RKD: distances between images, and angles of three, are in the student as in the teacher.

Source: Park, Kim, Lu, Cho, Relational Knowledge Distillation, 2019, sections 3.2.1 and 3.2.2; taps and weights as in
RepDistiller and mdistiller. Differs: vectors that coincide have no direction, and pull at nothing.
Needs: nothing. A step makes B x B x C differences and B x B x B angles: at B = 256 and C = 512, 134 MB and 67 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor

from edgekd.distillers.attention import float32
from edgekd.distillers.base import Distiller, Outputs, Progress, Wanted, supervised, teacher_of
from edgekd.distillers.vectors import both_pooled, pooled, unit

LEAST_SQUARE = 1e-12  # of a distance: below it the root has no slope


class RKD(Distiller):
    """Relations of the batch: `CE + kd_weight * KL_T + beta * (distance_weight * L_D + angle_weight * L_A)`.

    L_D: SmoothL1 of the distances of every two vectors, over their mean. L_A: SmoothL1 of the cosines at the middle one of
    every three. The vectors are what the classifiers are given; the batch is that of one process.

    Args:
        beta: Weight of the relations, >= 0.
        distance_weight: Of the distances, >= 0.
        angle_weight: Of the angles, >= 0.
        kd_weight: Weight of the teacher's logits, >= 0.
        temperature: T, > 0.
    """

    baseline = {"ce_weight": 1.0, "kd_weight": "kd_weight", "temperature": "temperature"}

    def __init__(
        self,
        *,
        beta: Annotated[float, Ge(0)] = 1.0,
        distance_weight: Annotated[float, Ge(0)] = 25.0,
        angle_weight: Annotated[float, Ge(0)] = 50.0,
        kd_weight: Annotated[float, Ge(0)] = 0.0,
        temperature: Annotated[float, Gt(0)] = 4.0,
    ) -> None:
        super().__init__()
        self.beta, self.distance_weight, self.angle_weight = beta, distance_weight, angle_weight
        self.kd_weight, self.temperature = kd_weight, temperature

    def wanted(self, student: Sequence[str], teacher: Sequence[str]) -> tuple[Wanted, Wanted]:
        """The pooled vectors."""
        return both_pooled(student, teacher, "rkd")

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce`, `rkd`, and `kd` when it has a weight."""
        guide = teacher_of(teacher)
        with float32(student.logits):
            gaps_s, gaps_t = _gaps(pooled(student)), _gaps(pooled(guide))
            distance = F.smooth_l1_loss(relative_distances(gaps_s), relative_distances(gaps_t))
            angle = F.smooth_l1_loss(cosines(gaps_s), cosines(gaps_t))
        return {
            **supervised(student, guide, target, self.kd_weight, self.temperature),
            "rkd": self.beta * (self.distance_weight * distance + self.angle_weight * angle),
        }


def relative_distances(gaps: Tensor) -> Tensor:
    """Distances [B, B], 0 on the diagonal, over the mean of those of two images; gaps: [B, B, C]."""
    n = len(gaps)
    apart = 1 - torch.eye(n, device=gaps.device)
    distances = gaps.square().sum(2).clamp_min(LEAST_SQUARE).sqrt() * apart
    return distances * (max(n * (n - 1), 1) / distances.sum().clamp_min(LEAST_SQUARE))


def cosines(gaps: Tensor) -> Tensor:
    """Cosines [B, B, B] at image j between the ways to i and to k: [j, i, k]; gaps: [B, B, C]."""
    ways = unit(gaps)
    return torch.bmm(ways, ways.transpose(1, 2))


def _gaps(vectors: Tensor) -> Tensor:
    """`x_i - x_j` at [j, i] of vectors [B, C]."""
    vectors = vectors.float()
    return vectors.unsqueeze(0) - vectors.unsqueeze(1)
