"""LS: KD or DKD on standardized logits, so that the student need not reach the teacher's magnitudes.

Source: Sun, Ren, Li, Wang, Cao, Logit Standardization in Knowledge Distillation, CVPR 2024, section 4; weights of the
released code.
Needs: nothing.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt
from torch import Tensor

from edgekd.distillers.base import Distiller, Outputs, Progress, cross_entropy, kl, labels_of, teacher_of
from edgekd.distillers.logits import decoupled, standardized, warmed


class LS(Distiller):
    """KD or DKD on logits of mean 0 and deviation 1: `ce_weight * CE + kd_weight * L(Z(z_s), Z(z_t))`; CE on raw logits.

    kd: L = KL_T, with its factor T^2. dkd: L = w (alpha * TCKD + beta * NCKD), beta and w as in `dkd`. Published (T,
    kd_weight) of kd on CIFAR-100: (2, 9) but for vgg13 -> vgg8 or MobileNetV2 (3, 9), ResNet-110 -> resnet20 (4, 12),
    ResNet-50 -> MobileNetV2 (3, 1); those figures are of the best epoch. With dkd kd_weight was tuned between 9 and 18.

    Args:
        of: The loss that sees standardized logits.
        kd_weight: Of that loss, >= 0.
        ce_weight: Of the labels, >= 0.
        temperature: T, > 0.
        alpha: Of the target class (of=dkd), >= 0.
        beta: Of the other classes (of=dkd), >= 0.
        warmup_epochs: Epochs over which the loss rises (of=dkd).
    """

    cached = ()
    baseline = {"ce_weight": "ce_weight", "kd_weight": 0.0}

    def __init__(
        self,
        *,
        of: Literal["kd", "dkd"] = "kd",
        kd_weight: Annotated[float, Ge(0)] = 9.0,
        ce_weight: Annotated[float, Ge(0)] = 0.1,
        temperature: Annotated[float, Gt(0)] = 2.0,
        alpha: Annotated[float, Ge(0)] = 1.0,
        beta: Annotated[float, Ge(0)] = 2.0,
        warmup_epochs: Annotated[int, Ge(0)] = 20,
    ) -> None:
        super().__init__()
        self.of, self.kd_weight, self.ce_weight, self.temperature = of, kd_weight, ce_weight, temperature
        self.alpha, self.beta, self.warmup_epochs = alpha, beta, warmup_epochs

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce` and `ls`."""
        ours, theirs = standardized(student.logits), standardized(teacher_of(teacher).logits)
        if self.of == "kd":
            loss = kl(ours, theirs, self.temperature)
        else:
            tckd, nckd = decoupled(ours, theirs, labels_of(target), self.temperature)
            parts = self.alpha * tckd + self.beta * nckd
            loss = warmed(progress.epoch, self.warmup_epochs) * parts.mean()
        return {"ce": self.ce_weight * cross_entropy(student.logits, target), "ls": self.kd_weight * loss}
