"""What the loop needs of a distiller, and what it hands to one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgekd.taps import Outputs


@dataclass(frozen=True)
class Progress:
    """Where the run stands: epoch and step count from 0, fraction of the run in [0, 1), the method's own generator."""

    epoch: int
    step: int
    fraction: float
    generator: torch.Generator


@dataclass(frozen=True)
class Context:
    """What a distiller may look at in `setup`.

    Attributes:
        student: The network to train.
        teacher: The teacher, unfolded, in eval mode; None when the method needs none.
        student_outputs: Example `Outputs` of the student for two images (eval mode, no gradient).
        teacher_outputs: The same of the teacher, or None.
        labels: [N] int64, the training labels.
        classes: Number of classes.
        generator: Initialise every module from it, so that the student's weights do not depend on the method.
    """

    student: nn.Module
    teacher: nn.Module | None
    student_outputs: Outputs
    teacher_outputs: Outputs | None
    labels: Tensor
    classes: int
    generator: torch.Generator


class Teaching(Protocol):
    """The part of a distiller that the loop calls; `edgekd.distillers.base.Distiller` implements it."""

    needs_teacher: bool
    views: int

    def setup(self, context: Context) -> None:
        """Make the method's own modules for these networks; called once, before the first step or a resume."""

    def __call__(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> Mapping[str, Tensor]:
        """The weighted scalar terms whose sum is minimised; target: [B] labels or [B, classes] probabilities."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the student's optimizer."""

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """Optimizers of its own by name; the loop steps and saves them."""

    def after_backward(self, progress: Progress) -> None:
        """Called between the backward pass and the optimizers' steps."""

    def deploy(self, student: nn.Module) -> nn.Module:
        """The network to validate, count and export."""

    def diagnostics(self) -> Mapping[str, npt.NDArray[Any]]:
        """What the method can show of the steps since the last call; empty when nothing."""


@runtime_checkable
class Paced(Protocol):
    """A network that behaves otherwise as its training goes on."""

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called before each epoch, counted from 0, of so many in all."""
