"""FitNet: one map of the student, through a small regressor, becomes one map of the teacher.

Source: Romero, Ballas, Kahou, Chassang, Gatta, Bengio, FitNets: Hints for Thin Deep Nets, 2015, section 2.2; trained in one
phase beside the labels, regressor, layer and weight as in RepDistiller and mdistiller. Differs: sizes that their kernels do
not fit are brought together by average pooling; no bias before a BatchNorm, which would take it away.
Needs: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from edgekd.distillers.attention import float32, read
from edgekd.distillers.base import Context, Distiller, Outputs, Progress, Wanted, supervised, teacher_of
from edgekd.distillers.modules import made
from edgekd.distillers.stages import level, maps
from edgekd.errors import RecipeError
from edgekd.taps import feature_taps

LARGEST_KERNEL = 7  # the largest of any network of ours; beyond it the regressor would outgrow the student


class FitNet(Distiller):
    """One map of the teacher as a hint: `CE + kd_weight * KL_T + beta * MSE(r(s), t)`, r a convolution, BatchNorm, ReLU.

    Args:
        beta: Weight of the hint, >= 0.
        hint_layer: Which map of both: 0 the stem, n stage n.
        kd_weight: Weight of the teacher's logits, >= 0.
        temperature: T, > 0.
    """

    baseline = {"ce_weight": 1.0, "kd_weight": "kd_weight", "temperature": "temperature"}

    def __init__(
        self,
        *,
        beta: Annotated[float, Ge(0)] = 100.0,
        hint_layer: Annotated[int, Ge(0)] = 2,
        kd_weight: Annotated[float, Ge(0)] = 0.0,
        temperature: Annotated[float, Gt(0)] = 4.0,
    ) -> None:
        super().__init__()
        self.beta, self.hint_layer, self.kd_weight, self.temperature = beta, hint_layer, kd_weight, temperature

    def wanted(self, student: Sequence[str], teacher: Sequence[str]) -> tuple[Wanted, Wanted]:
        """The map of that layer of each."""
        self.student_taps = [_hint(student, self.hint_layer, "student")]
        self.teacher_taps = [_hint(teacher, self.hint_layer, "teacher")]
        return maps(self.student_taps), maps(self.teacher_taps)

    def setup(self, context: Context) -> None:
        """Make the regressor for these widths and sizes."""
        ours = read(context.student_outputs, self.student_taps, "map")[0].shape
        theirs = read(teacher_of(context.teacher_outputs), self.teacher_taps, "map")[0].shape
        self.regressor = made(lambda: Regressor(ours[1:], theirs[1:]), context.generator)

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce`, `fitnet`, and `kd` when it has a weight."""
        guide = teacher_of(teacher)
        with float32(student.logits):
            ours, theirs = read(student, self.student_taps, "map")[0], read(guide, self.teacher_taps, "map")[0]
            loss = F.mse_loss(*self.regressor(ours.float(), theirs.float()))
        return {
            **supervised(student, guide, target, self.kd_weight, self.temperature),
            "fitnet": self.beta * loss,
        }


class Regressor(nn.Module):
    """Convolution, BatchNorm and ReLU from maps (C, H, W) of the student to maps (c, h, w) of the teacher.

    Its kernel: 3x3 of stride 2 where the student's map is twice the size (an odd one rounded up); transposed 4x4 of stride 2
    where it is half; else without padding, 1 + the difference, up to 7. For every other pair of sizes the larger height and
    the larger width are average-pooled to the smaller, and the kernel is 1x1.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int]) -> None:
        super().__init__()
        (inputs, *ours), (outputs, *theirs) = student, teacher
        kernel = tuple(1 + s - t for s, t in zip(ours, theirs, strict=True))
        halved, doubled = [(side + 1) // 2 for side in ours] == theirs, [2 * side for side in ours] == theirs
        self.pooled = False
        convolution: nn.Module
        if halved and ours != theirs:
            convolution = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        elif doubled:
            convolution = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)
        elif min(kernel) >= 1 and max(kernel) <= LARGEST_KERNEL:
            convolution = nn.Conv2d(inputs, outputs, kernel, bias=False)  # type: ignore[arg-type]
        else:
            self.pooled = True
            convolution = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.layers = nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """The regressed map of the student and the teacher's, of one shape."""
        if self.pooled:
            student, teacher = level(student, teacher)
        return self.layers(student), teacher


def _hint(names: Sequence[str], layer: int, network: str) -> str:
    tap = f"stage.{layer}" if layer else "stem"
    if tap not in names:
        stages = feature_taps(names, "stage", network)
        raise RecipeError(
            "distill.hint_layer",
            f"{layer}, and fitnet finds no {tap} in the {network}",
            f"a layer of both networks; the {network} has {', '.join(stages)}",
            f"--set distill.hint_layer={min(layer or 1, len(stages))}",
        )
    return tap
