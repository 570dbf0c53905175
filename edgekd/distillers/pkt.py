"""PKT: which images are near an image, as a distribution over the batch, follows the teacher's.

Source: Passalis, Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, 2018, section 3 (cosine
kernel); tap and weight as in RepDistiller and mdistiller.
Needs: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Gt
from torch import Tensor

from edgekd.distillers.attention import float32
from edgekd.distillers.base import Distiller, Outputs, Progress, Wanted, supervised, teacher_of
from edgekd.distillers.vectors import both_pooled, pooled, unit

EPSILON = 1e-7  # added to both probabilities before their ratio


class PKT(Distiller):
    """Neighbours in the batch: `CE + kd_weight * KL_T + beta * mean_ij p_t log((p_t + e) / (p_s + e))`, e = 1e-7.

    p_ij: `(1 + cosine) / 2` of the vectors that the classifiers are given, each row over its sum. The batch is
    that of one process.

    Args:
        beta: Weight of the neighbours, >= 0.
        kd_weight: Weight of the teacher's logits, >= 0.
        temperature: T, > 0.
    """

    baseline = {"ce_weight": 1.0, "kd_weight": "kd_weight", "temperature": "temperature"}

    def __init__(
        self,
        *,
        beta: Annotated[float, Ge(0)] = 30000.0,
        kd_weight: Annotated[float, Ge(0)] = 0.0,
        temperature: Annotated[float, Gt(0)] = 4.0,
    ) -> None:
        super().__init__()
        self.beta, self.kd_weight, self.temperature = beta, kd_weight, temperature

    def wanted(self, student: Sequence[str], teacher: Sequence[str]) -> tuple[Wanted, Wanted]:
        """The pooled vectors."""
        return both_pooled(student, teacher, "pkt")

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce`, `pkt`, and `kd` when it has a weight."""
        guide = teacher_of(teacher)
        with float32(student.logits):
            p_s, p_t = neighbours(pooled(student)), neighbours(pooled(guide))
            # Rows sum to 1, so the second term adds nothing but takes away what rounding leaves of that: without it the
            # first-order parts, ten times the loss, cancel badly in float32.
            logs = ((p_t - p_s) / (p_s + EPSILON)).log1p()
            loss = (p_t * logs + (p_s - p_t)).mean()
        return {
            **supervised(student, guide, target, self.kd_weight, self.temperature),
            "pkt": self.beta * loss,
        }


def neighbours(vectors: Tensor) -> Tensor:
    """Probabilities [B, B], rows sum to 1, of vectors [B, C]."""
    directions = unit(vectors.float())
    near = (directions @ directions.T + 1) / 2
    return near / near.sum(dim=1, keepdim=True)
