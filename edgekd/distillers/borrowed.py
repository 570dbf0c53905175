"""What methods share whose student answers with the teacher's classifier (SimKD, KDFM): the maps, the classifier, the sizes."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from edgekd.distillers.base import Context, Wanted
from edgekd.errors import RecipeError
from edgekd.models.grafted import Layer, require_graftable

LAST = "last:map"


def last_maps(student: Sequence[str], teacher: Sequence[str]) -> tuple[Wanted, Wanted]:
    """The map of either network that is pooled for its classifier.

    Raises:
        RecipeError: A network offers none.
    """
    for role, names in (("student", student), ("teacher", teacher)):
        if "last" not in names:
            raise RecipeError(
                "distill.use",
                f"the {role} has no tap `last`: no module of it pools a map for its classifier",
                "networks that end in a pool and a linear classifier",
                f"another {role}, or another method",
            )
    return [("last", "map")], [("last", "map")]


def classifier(context: Context) -> nn.Linear:
    """A copy of the teacher's classifier, to be put behind the student's adapted last map.

    Raises:
        RecipeError: A network classifies otherwise than by one linear layer on its pooled last map.
    """
    assert context.teacher is not None
    assert context.teacher_outputs is not None
    require_graftable(context.student, context.student_outputs.taps[LAST].shape[1], "student")
    require_graftable(context.teacher, context.teacher_outputs.taps[LAST].shape[1], "teacher")
    found = context.teacher.classifier
    assert isinstance(found, nn.Linear)
    return copy.deepcopy(found)


def shrink(student: Tensor, teacher: Tensor) -> list[Layer]:
    """The pool that brings the student's map [B, C, H, W] to the teacher's size, where one factor does; else nothing."""
    (h, w), (height, width) = student.shape[2:], teacher.shape[2:]
    factor = h // height
    return [{"kind": "pool", "factor": factor}] if factor > 1 and (height * factor, width * factor) == (h, w) else []


def convolution(inputs: int, outputs: int, kernel: int) -> list[Layer]:
    """A convolution that keeps the size, BatchNorm and ReLU."""
    return [
        {"kind": "conv", "inputs": inputs, "outputs": outputs, "kernel": kernel},
        {"kind": "bn", "channels": outputs},
        {"kind": "relu"},
    ]
