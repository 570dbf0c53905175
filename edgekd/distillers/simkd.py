"""SimKD: the student learns the teacher's last map alone and answers with the teacher's classifier.

Source: Chen, Mei, Zhang, Wang, Feng, Chen, Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022, section 3.
Where no whole factor leads from the student's larger map to the teacher's, it is projected first and pooled for the loss.
Needs: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from edgekd.distillers.attention import float32
from edgekd.distillers.base import Context, Distiller, Outputs, Progress, Wanted, teacher_of
from edgekd.distillers.borrowed import LAST, classifier, convolution, last_maps, shrink
from edgekd.distillers.modules import made
from edgekd.distillers.stages import level
from edgekd.errors import RecipeError
from edgekd.models.grafted import adapter, graft


class SimKD(Distiller):
    """The teacher's last map alone, its classifier reused: `weight * MSE(projector(f_s), f_t)`, no CE.

    The projector (1x1, 3x3 and 1x1 convolutions, each with BatchNorm and ReLU) and the teacher's classifier are part of
    the deployed network: they are counted and exported. The student's own classifier is not trained, so nothing is left
    to compare with when the loss is off.

    Args:
        weight: Of the maps' distance, >= 0.
        factor: The projector has 1 / factor of the teacher's channels inside.
    """

    baseline = None

    def __init__(self, *, weight: Annotated[float, Ge(0)] = 1.0, factor: Annotated[int, Ge(1)] = 2) -> None:
        super().__init__()
        self.weight, self.factor = weight, factor

    def wanted(self, student: Sequence[str], teacher: Sequence[str]) -> tuple[Wanted, Wanted]:
        """The last map of both."""
        return last_maps(student, teacher)

    def setup(self, context: Context) -> None:
        """Make the projector, and copy the teacher's classifier.

        Raises:
            RecipeError: A network has no linear classifier on its last map, or the projector would have no channels.
        """
        self.classifier = classifier(context).requires_grad_(False)
        ours, theirs = context.student_outputs.taps[LAST], teacher_of(context.teacher_outputs).taps[LAST]
        inputs, outputs, inside = ours.shape[1], theirs.shape[1], theirs.shape[1] // self.factor
        if not inside:
            raise RecipeError("distill.factor", f"found {self.factor}", f"at most the teacher's {outputs} channels")
        layers = convolution(inputs, inside, 1) + convolution(inside, inside, 3) + convolution(inside, outputs, 1)
        self.projector = made(lambda: adapter(shrink(ours, theirs) + layers), context.generator)

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`simkd`."""
        guide = teacher_of(teacher)
        with float32(student.logits):
            ours, theirs = level(self.projector(student.taps[LAST].float()), guide.taps[LAST].float())
            return {"simkd": self.weight * F.mse_loss(ours, theirs)}

    def deploy(self, student: nn.Module) -> nn.Module:
        """A copy of the student with the projector before its pool and the teacher's classifier behind it."""
        return graft(student, self.projector, self.classifier)
