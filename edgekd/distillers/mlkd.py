"""MLKD: predictions aligned sample by sample, class by class and over the batch, on a weak and a strong view.

Source: Jin, Wang, Lin, Multi-Level Logit Distillation, CVPR 2023, section 3; weights and temperatures of the released
code, whose departures from its own equations `mlkd_compat` repeats.
Needs: nothing.
"""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from edgekd.distillers.base import Distiller, Outputs, Progress, cross_entropy, kl, teacher_of

TEMPERATURES = (4.0, 3.0, 5.0, 2.0, 6.0)
ON_WEAK = (2.0, 6.0)  # temperatures at which the released code's strong term sees the weak logits
MASKED = 0.5  # what the released code's masks come to: the share of the less confident half


class MLKD(Distiller):
    """Predictions aligned by sample, class and batch on two views: `ce_weight * CE + kd_weight * (KL + class + batch)`.

    Summed over five temperatures, P = softmax(z / T): KL_T of the weak view (halved) and of the strong; of the weak view
    `|P_t'P_t - P_s'P_s|^2 / K` and `|P_t P_t' - P_s P_s'|^2 / B` (halved). CE of both views. Both networks see every image
    twice, and never the same strong view again, so nothing can be cached; no single-view loss is left when its terms are
    off, so there is no baseline to compare it with.

    Args:
        ce_weight: Of the labels, for each view, >= 0.
        kd_weight: Of every other term, >= 0.
        mlkd_compat: As the released code: masks by confidence, which scale whole terms by about a half, and the strong
            KL at T = 2 and 6 on the weak logits.
    """

    views = 2
    cached = None
    baseline = None

    def __init__(
        self,
        *,
        ce_weight: Annotated[float, Ge(0)] = 0.1,
        kd_weight: Annotated[float, Ge(0)] = 0.9,
        mlkd_compat: bool = False,
    ) -> None:
        super().__init__()
        self.ce_weight, self.kd_weight, self.mlkd_compat = ce_weight, kd_weight, mlkd_compat

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce`, `mlkd_instance`, `mlkd_class` and `mlkd_batch`."""
        weak, strong = student.logits.float().chunk(2)
        weak_t, strong_t = teacher_of(teacher).logits.float().chunk(2)
        sample, group = self._masks(weak_t)
        instance, classes, batch = [], [], []
        with torch.autocast(
            weak.device.type, enabled=False
        ):  # Gram matrices of probabilities underflow in half precision
            for t in TEMPERATURES:
                swapped = self.mlkd_compat and t in ON_WEAK
                on_weak = kl(weak, weak_t, t)
                instance.append(sample * on_weak + (on_weak if swapped else kl(strong, strong_t, t)))
                p_s, p_t = (weak / t).softmax(1), (weak_t / t).softmax(1)
                classes.append(group * (p_t.T @ p_t - p_s.T @ p_s).square().sum() / p_s.shape[1])
                batch.append(sample * (p_t @ p_t.T - p_s @ p_s.T).square().sum() / p_s.shape[0])
        return {
            "ce": self.ce_weight * (cross_entropy(weak, target) + cross_entropy(strong, target)),
            "mlkd_instance": self.kd_weight * torch.stack(instance).sum(),
            "mlkd_class": self.kd_weight * torch.stack(classes).sum(),
            "mlkd_batch": self.kd_weight * torch.stack(batch).sum(),
        }

    def _masks(self, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of the terms by sample and by class: the share of those of at most median confidence, or a half."""
        if not self.mlkd_compat:
            half = teacher.new_tensor(MASKED)
            return half, half
        sure = teacher.softmax(1)
        confidences = sure.max(1).values, sure.sum(0)
        sample, group = ((values <= values.median()).float().mean() for values in confidences)
        return sample, group
