"""What every distiller is, and the two losses that most of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.errors import RecipeError
from edgekd.fit.protocol import Context, Progress
from edgekd.taps import Outputs, Wanted

__all__ = [
    "Context",
    "Distiller",
    "Outputs",
    "Progress",
    "Wanted",
    "cross_entropy",
    "kl",
    "labels_of",
    "supervised",
    "teacher_of",
]


class Distiller(nn.Module, ABC):
    """A distillation method: losses from the outputs of student and teacher. It never runs a network.

    Attributes:
        VERSION: Raised when the same inputs give another result.
        needs_teacher: False: the teacher's step is skipped.
        views: 2: a weak and a strong view of each image; outputs hold the rows of the weak views, then those of the strong.
        reconstruction: True: an edgekd reconstruction of a method whose full text is not available.
        cached: Reductions of the teacher's feature taps (`taps`: block or stage) that `distill.cached_views` must hold; ():
            its logits are enough; None: the method cannot learn from stored answers.
        baseline: What remains with its own terms off, as arguments of `kd`: a number, or the name of an own argument. None:
            nothing that could be compared.
    """

    VERSION: int = 1
    needs_teacher: bool = True
    views: int = 1
    reconstruction: bool = False
    cached: tuple[str, ...] | None = None
    baseline: Mapping[str, float | str] | None = {"ce_weight": 1.0, "kd_weight": 0.0}

    def wanted(self, student: Sequence[str], teacher: Sequence[str]) -> tuple[Wanted, Wanted]:
        """The taps to read of student and of teacher, out of the names that each offers.

        Raises:
            RecipeError: The networks lack the taps that the method needs, or its arguments do not fit them.
        """
        return (), ()

    def setup(self, context: Context) -> None:
        """Make the method's own modules for these networks, from `context.generator` alone."""
        return

    @abstractmethod
    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """The weighted scalar terms whose sum is minimised: `ce`, `kd` and the method's own.

        Args:
            student: With gradients.
            teacher: Without; None when `needs_teacher` is False.
            target: [B] int64 labels, or [B, classes] probabilities (label smoothing), each row times the weight of its label
                (class weights): their sum is that weight, not 1.
            progress: Where the run stands.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the student's optimizer; a group may carry its own `lr` and `weight_decay`.

        Parameters of `optimizers`, and those that are not trained, are not among them.
        """
        own = {
            id(p)
            for optimizer in self.optimizers().values()
            for group in optimizer.param_groups
            for p in group["params"]
        }
        parameters = [p for p in self.parameters() if p.requires_grad and id(p) not in own]
        return [{"params": parameters}] if parameters else []

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """Optimizers of its own by name, made in `setup`: stepped and saved with the student's, at their own rate."""
        return {}

    def after_backward(self, progress: Progress) -> None:
        """Look at the gradients before any optimizer steps; a parameter whose gradient is set to None is not moved.

        Of several processes each sees its part of the batch; gradients of the terms are already their mean, and what a
        method computes here itself it must average itself. Buffers are each process's own, rank 0's are saved.
        """
        return

    def deploy(self, student: nn.Module) -> nn.Module:
        """The network to validate, count and export."""
        return student

    def diagnostics(self) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """What the method can show of the steps since the last call."""
        return {}


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy in float32 of logits [B, K] against labels [B] or probabilities [B, K]."""
    return F.cross_entropy(logits.float(), target)


def kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`T^2 / B * sum_b sum_k p_t log(p_t / p_s)` with p = softmax(z / T), in float32; logits [B, K], T > 0.

    Source: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015, section 2.
    """
    log_s = F.log_softmax(student.float() / temperature, dim=1)
    log_t = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    return F.kl_div(log_s, log_t, reduction="batchmean", log_target=True) * temperature**2


def supervised(
    student: Outputs, teacher: Outputs, target: Tensor, kd_weight: float, temperature: float
) -> dict[str, Tensor]:
    """`ce`, and `kd` unless its weight is 0: what most feature methods add their own term to."""
    terms = {"ce": cross_entropy(student.logits, target)}
    if kd_weight:
        terms["kd"] = kd_weight * kl(student.logits, teacher.logits, temperature)
    return terms


def teacher_of(teacher: Outputs | None) -> Outputs:
    """The teacher's outputs, cut off from whatever made them: no gradient reaches the teacher.

    Raises:
        RecipeError: There is no teacher and the method needs one.
    """
    if teacher is None:
        raise RecipeError("teacher", "there is none", "a teacher for this method", "add a teacher, or use: ce")
    return Outputs(teacher.logits.detach(), {name: tap.detach() for name, tap in teacher.taps.items()}, teacher.index)


def labels_of(target: Tensor) -> Tensor:
    """Labels [B] int64 of a target: itself, or the class of the largest probability of [B, K]."""
    return target if target.dim() == 1 else target.argmax(dim=1)
