"""AFD: each teacher feature asks, by attention, which student features should learn it.

Source: Ji, Heo, Park, Show, Attend and Distill: Knowledge Distillation via Attention-based Feature Matching, AAAI 2021,
arXiv 2102.02973; released code clovaai/attention-feature-distillation.
Needs: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt
from torch import Tensor

from edgekd.distillers.attention import Attention, MeanAttention, both, float32, read, widths
from edgekd.distillers.base import Context, Distiller, Outputs, Progress, Wanted, cross_entropy, kl, teacher_of
from edgekd.distillers.pairs import map_pairs
from edgekd.taps import feature_taps


class AFD(Distiller):
    """Each teacher feature asks, by attention, which student features should learn it.

    `CE + alpha_kd * KL_T + beta * sum_t mean_b sum_s alpha_ts * D_ts`, softmax over the student's taps.

    Args:
        beta: Weight of the features, >= 0.
        alpha_kd: Weight of the teacher's logits, >= 0.
        temperature: T, > 0.
        qk_dim: Size of queries and keys.
        taps: One map of each residual block, or of each stage.
    """

    VERSION = 2
    cached = ("energy", "pooled")
    baseline = {"ce_weight": 1.0, "kd_weight": "alpha_kd", "temperature": "temperature"}

    def __init__(
        self,
        *,
        beta: Annotated[float, Ge(0)] = 200.0,
        alpha_kd: Annotated[float, Ge(0)] = 0.9,
        temperature: Annotated[float, Gt(0)] = 4.0,
        qk_dim: Annotated[int, Ge(1)] = 128,
        taps: Literal["block", "stage"] = "block",
    ) -> None:
        super().__init__()
        self.beta, self.alpha_kd, self.temperature = beta, alpha_kd, temperature
        self.qk_dim, self.taps = qk_dim, taps

    def wanted(self, student: Sequence[str], teacher: Sequence[str]) -> tuple[Wanted, Wanted]:
        """Energy and pooled vector of each tap."""
        self.student_taps = feature_taps(student, self.taps, "student")
        self.teacher_taps = feature_taps(teacher, self.taps, "teacher")
        return both(self.student_taps), both(self.teacher_taps)

    def setup(self, context: Context) -> None:
        """Make the attention network for these widths."""
        shown, guide = context.student_outputs, teacher_of(context.teacher_outputs)
        student, teacher = widths(shown, self.student_taps), widths(guide, self.teacher_taps)
        self.attention = Attention(student, teacher, self.qk_dim, context.generator)
        self.seen = MeanAttention(self.student_taps, self.teacher_taps)

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce`, `kd` and `afd`."""
        guide = teacher_of(teacher)
        s, t = self.student_taps, self.teacher_taps
        with float32(student.logits):
            alpha = self.attention(read(student, s, "pooled"), read(guide, t, "pooled")).softmax(dim=1)
            _, distance = map_pairs(read(student, s, "energy"), read(guide, t, "energy"), "mse")
            loss = (alpha * distance).sum((1, 2)).mean()
        if self.training:
            self.seen.add(alpha)
        return {
            "ce": cross_entropy(student.logits, target),
            "kd": self.alpha_kd * kl(student.logits, guide.logits, self.temperature),
            "afd": self.beta * loss,
        }

    def diagnostics(self) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """Mean attention [N_S, N_T] since the last call; each column sums to 1."""
        return self.seen.read()
