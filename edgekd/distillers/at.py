"""AT: where the student's maps are strong, stage by stage, as the teacher's are.

Source: Zagoruyko, Komodakis, Paying More Attention to Attention, 2017, section 3.1 (activation-based, p = 2), in the form
and with the weight of RepDistiller and mdistiller (mean squared difference, 1000). Differs: of two sizes the larger energy
map is pooled, not the features under it, so that stored energies teach as live ones do.
Needs: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor

from edgekd.distillers.attention import float32, read
from edgekd.distillers.base import Distiller, Outputs, Progress, Wanted, supervised, teacher_of
from edgekd.distillers.stages import deepest, level
from edgekd.taps import feature_taps

EPSILON = 1e-12  # least norm of a map that is divided by it


class AT(Distiller):
    """The teacher's spatial attention at each stage: `CE + kd_weight * KL_T + beta * sum_i MSE(a(s_i), a(t_i))`.

    a: the energy map (mean over channels of the square), flattened, L2-normalised. Stages are paired from the deep end, of
    two numbers the smaller.

    Args:
        beta: Weight of the attention maps, >= 0. A mean over pixels of maps of norm 1: it presses harder where maps are small.
        kd_weight: Weight of the teacher's logits, >= 0.
        temperature: T, > 0.
        taps: One map of each stage, or of each residual block: then each block of the network with fewer meets the one at
            the same fraction of the other's depth.
    """

    cached = ("energy",)
    baseline = {"ce_weight": 1.0, "kd_weight": "kd_weight", "temperature": "temperature"}

    def __init__(
        self,
        *,
        beta: Annotated[float, Ge(0)] = 1000.0,
        kd_weight: Annotated[float, Ge(0)] = 0.0,
        temperature: Annotated[float, Gt(0)] = 4.0,
        taps: Literal["block", "stage"] = "stage",
    ) -> None:
        super().__init__()
        self.beta, self.kd_weight, self.temperature, self.taps = beta, kd_weight, temperature, taps

    def wanted(self, student: Sequence[str], teacher: Sequence[str]) -> tuple[Wanted, Wanted]:
        """Energies of the paired taps."""
        if self.taps == "stage":
            self.student_taps, self.teacher_taps = deepest(student, teacher)
        else:
            ours, theirs = feature_taps(student, "block", "student"), feature_taps(teacher, "block", "teacher")
            n = min(len(ours), len(theirs))
            self.student_taps, self.teacher_taps = _spread(ours, n), _spread(theirs, n)
        return [(tap, "energy") for tap in self.student_taps], [(tap, "energy") for tap in self.teacher_taps]

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce`, `at`, and `kd` when it has a weight."""
        guide = teacher_of(teacher)
        with float32(student.logits):
            ours, theirs = read(student, self.student_taps, "energy"), read(guide, self.teacher_taps, "energy")
            loss = torch.stack([energy_distance(s, t) for s, t in zip(ours, theirs, strict=True)]).sum()
        return {
            **supervised(student, guide, target, self.kd_weight, self.temperature),
            "at": self.beta * loss,
        }


def energy_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two energy maps [B, H, W], brought to the smaller size, flattened and L2-normalised."""
    ours, theirs = level(student.float().unsqueeze(1), teacher.float().unsqueeze(1))
    return F.mse_loss(_unit(ours), _unit(theirs))


def _unit(energy: Tensor) -> Tensor:
    return F.normalize(energy.flatten(1), dim=1, eps=EPSILON)


def _spread(taps: Sequence[str], n: int) -> list[str]:
    """n of the taps at even distances, the last among them."""
    return [taps[(i + 1) * len(taps) // n - 1] for i in range(n)]
