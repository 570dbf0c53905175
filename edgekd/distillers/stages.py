"""Which feature maps of two networks belong together, and how two maps come to one size."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from edgekd.taps import Kind, Wanted, feature_taps


def deepest(student: Sequence[str], teacher: Sequence[str], kind: Kind = "stage") -> tuple[list[str], list[str]]:
    """As many taps of both networks as the one with fewer has, the deepest: the last belongs to the last.

    Raises:
        RecipeError: A network has none.
    """
    ours, theirs = feature_taps(student, kind, "student"), feature_taps(teacher, kind, "teacher")
    n = min(len(ours), len(theirs))
    return ours[-n:], theirs[-n:]


def before_relu(stages: Sequence[str], names: Sequence[str]) -> list[str]:
    """Those stages before their last ReLU where the network offers all of them so, else as they are."""
    before = [tap.replace("stage", "preact") for tap in stages]
    return before if set(before) <= set(names) else list(stages)


def level(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps [B, C, H, W] at the smaller height and the smaller width, by adaptive average pooling."""
    height, width = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    return _pooled(student, height, width), _pooled(teacher, height, width)


def maps(taps: Sequence[str]) -> Wanted:
    """The whole map of each tap."""
    return [(tap, "map") for tap in taps]


def _pooled(value: Tensor, height: int, width: int) -> Tensor:
    return value if value.shape[2:] == (height, width) else F.adaptive_avg_pool2d(value, (height, width))
