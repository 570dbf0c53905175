"""DKD: what the teacher knows of the target class and what it knows of the others, weighted apart.

Source: Zhao, Cui, Song, Qiu, Liang, Decoupled Knowledge Distillation, CVPR 2022, section 3.3; weights and warm-up as in
mdistiller.
Needs: nothing.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt
from torch import Tensor

from edgekd.distillers.base import Distiller, Outputs, Progress, cross_entropy, labels_of, teacher_of
from edgekd.distillers.logits import decoupled, warmed


class DKD(Distiller):
    """What the teacher knows of the target class and of the others, apart: `CE + w (alpha * TCKD + beta * NCKD)`.

    `w = min(epoch / warmup_epochs, 1)`, epochs from 1. Published beta on CIFAR-100: ResNet-56 -> resnet20 2, ResNet-110 ->
    resnet32 2, vgg13 -> vgg8 6, wrn_40_2 -> wrn_16_2 or wrn_40_1 6, vgg13 -> MobileNetV2 6, resnet32x4 -> resnet8x4 8,
    other pairs of two families 8; on ImageNet temperature 1, warmup_epochs 1 and beta 0.5 (ResNet-34 -> ResNet-18) or 2
    (ResNet-50 -> MobileNetV1).

    Args:
        alpha: Weight of the target class (TCKD), >= 0.
        beta: Weight of the other classes (NCKD), >= 0; depends on the pair.
        temperature: T, > 0.
        warmup_epochs: Epochs over which both weights rise.
        ce_weight: Of the labels, >= 0.
    """

    cached = ()
    baseline = {"ce_weight": "ce_weight", "kd_weight": 0.0}

    def __init__(
        self,
        *,
        alpha: Annotated[float, Ge(0)] = 1.0,
        beta: Annotated[float, Ge(0)] = 2.0,
        temperature: Annotated[float, Gt(0)] = 4.0,
        warmup_epochs: Annotated[int, Ge(0)] = 20,
        ce_weight: Annotated[float, Ge(0)] = 1.0,
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.temperature = alpha, beta, temperature
        self.warmup_epochs, self.ce_weight = warmup_epochs, ce_weight

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce`, `dkd_tckd` and `dkd_nckd`."""
        guide = teacher_of(teacher)
        tckd, nckd = decoupled(student.logits, guide.logits, labels_of(target), self.temperature)
        weight = warmed(progress.epoch, self.warmup_epochs)
        return {
            "ce": self.ce_weight * cross_entropy(student.logits, target),
            "dkd_tckd": weight * self.alpha * tckd.mean(),
            "dkd_nckd": weight * self.beta * nckd.mean(),
        }
