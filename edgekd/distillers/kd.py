"""KD: the teacher's softened logits beside the labels.

Source: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015, section 2; weights as in RepDistiller
and mdistiller (0.1 and 0.9).
Needs: nothing.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt
from torch import Tensor

from edgekd.distillers.base import Distiller, Outputs, Progress, cross_entropy, kl, teacher_of


class KD(Distiller):
    """The teacher's softened logits beside the labels: `ce_weight * CE + kd_weight * KL_T`.

    Args:
        temperature: T, > 0.
        ce_weight: Of the labels, >= 0.
        kd_weight: Of the teacher, >= 0.
    """

    cached = ()
    baseline = {"ce_weight": "ce_weight", "kd_weight": 0.0}

    def __init__(
        self,
        *,
        temperature: Annotated[float, Gt(0)] = 4.0,
        ce_weight: Annotated[float, Ge(0)] = 0.1,
        kd_weight: Annotated[float, Ge(0)] = 0.9,
    ) -> None:
        super().__init__()
        self.temperature, self.ce_weight, self.kd_weight = temperature, ce_weight, kd_weight

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce` and `kd`."""
        guide = teacher_of(teacher)
        return {
            "ce": self.ce_weight * cross_entropy(student.logits, target),
            "kd": self.kd_weight * kl(student.logits, guide.logits, self.temperature),
        }
