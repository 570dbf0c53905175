"""DIST: the student keeps the teacher's relations, not its values, by Pearson's correlation.

Source: Huang, You, Wang, Qian, Xu, Knowledge Distillation from A Stronger Teacher, NeurIPS 2022, arXiv 2205.10536, section
4; weights as in hunto/image_classification_sota.
Needs: nothing.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt
from torch import Tensor

from edgekd.distillers.base import Distiller, Outputs, Progress, cross_entropy, teacher_of

EPSILON = 1e-8  # beside the product of the norms


class DIST(Distiller):
    """The teacher's relations by correlation: `ce_weight * CE + weight * (beta * inter + gamma * intra)`.

    inter: `tau^2 (1 - corr)` of a sample's probabilities over the classes, mean over samples; intra: of a class's
    probabilities over the batch, mean over classes. For ImageNet the released code has weight 1 and tau 1.

    Args:
        weight: Of both correlations, >= 0.
        beta: Of the correlation within each sample, >= 0.
        gamma: Of the correlation within each class, >= 0.
        tau: Temperature, > 0.
        ce_weight: Of the labels, >= 0.
    """

    cached = ()
    baseline = {"ce_weight": "ce_weight", "kd_weight": 0.0}

    def __init__(
        self,
        *,
        weight: Annotated[float, Ge(0)] = 2.0,
        beta: Annotated[float, Ge(0)] = 1.0,
        gamma: Annotated[float, Ge(0)] = 1.0,
        tau: Annotated[float, Gt(0)] = 4.0,
        ce_weight: Annotated[float, Ge(0)] = 1.0,
    ) -> None:
        super().__init__()
        self.weight, self.beta, self.gamma, self.tau, self.ce_weight = weight, beta, gamma, tau, ce_weight

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce`, `dist_inter` and `dist_intra`."""
        ours = (student.logits.float() / self.tau).softmax(1)
        theirs = (teacher_of(teacher).logits.float() / self.tau).softmax(1)
        inter, intra = _unlike(ours, theirs), _unlike(ours.T, theirs.T)
        return {
            "ce": self.ce_weight * cross_entropy(student.logits, target),
            "dist_inter": self.weight * self.beta * self.tau**2 * inter,
            "dist_intra": self.weight * self.gamma * self.tau**2 * intra,
        }


def _unlike(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - the mean over rows of the correlation of two matrices' rows."""
    s, t = student - student.mean(1, keepdim=True), teacher - teacher.mean(1, keepdim=True)
    correlation: Tensor = (s * t).sum(1) / (s.norm(dim=1) * t.norm(dim=1) + EPSILON)
    return 1 - correlation.mean()
