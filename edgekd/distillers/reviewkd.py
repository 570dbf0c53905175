"""ReviewKD: a stage of the student, joined with what its deeper stages know, becomes the stage of the teacher.

Source: Chen, Liu, Zhao, Jia, Distilling Knowledge via Knowledge Review, 2021, sections 3.2 and 3.3 (attention-based fusion,
hierarchical context loss), as in the authors' code and mdistiller; their weights: 0.6 resnet56 -> resnet20, 1 resnet110 ->
resnet32, 5 wrn_40_2 and resnet32x4 -> narrower ones, 8 resnet32x4 -> shufflenetv2_1x.
Needs: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from edgekd.distillers.attention import float32, read
from edgekd.distillers.base import Context, Distiller, Outputs, Progress, Wanted, supervised, teacher_of
from edgekd.distillers.logits import warmed
from edgekd.distillers.modules import made
from edgekd.distillers.stages import before_relu, deepest, maps

WIDEST = 512  # channels inside the fusion, at most
GRIDS = (4, 2, 1)  # pixels a side at which maps are compared beside their own size


class ReviewKD(Distiller):
    """Maps fused from deep to shallow against the teacher's: `CE + kd_weight * KL_T + warm-up * beta * sum_i HCL_i`.

    Levels: the pooled vector as a map of one pixel, then the stages from the deep end, of two numbers the smaller. The
    teacher shows its stages before their last ReLU where it has such taps, as the source has them, and else its stage maps.
    About 1 to 2 million extra parameters in training.

    Args:
        beta: Weight of the levels, >= 0; good values depend on the pair.
        warmup: Epochs until the whole weight, which grows evenly from 1 / warmup; 1: whole from the start.
        kd_weight: Weight of the teacher's logits, >= 0.
        temperature: T, > 0.
    """

    baseline = {"ce_weight": 1.0, "kd_weight": "kd_weight", "temperature": "temperature"}

    def __init__(
        self,
        *,
        beta: Annotated[float, Ge(0)] = 1.0,
        warmup: Annotated[int, Ge(1)] = 20,
        kd_weight: Annotated[float, Ge(0)] = 0.0,
        temperature: Annotated[float, Gt(0)] = 4.0,
    ) -> None:
        super().__init__()
        self.beta, self.warmup, self.kd_weight, self.temperature = beta, warmup, kd_weight, temperature

    def wanted(self, student: Sequence[str], teacher: Sequence[str]) -> tuple[Wanted, Wanted]:
        """The pooled vector and the maps of the paired stages, deepest first."""
        ours, theirs = deepest(student, teacher)
        self.student_taps = ours[::-1]
        self.teacher_taps = before_relu(theirs, teacher)[::-1]
        return [("pooled", "pooled"), *maps(self.student_taps)], [("pooled", "pooled"), *maps(self.teacher_taps)]

    def setup(self, context: Context) -> None:
        """Make a fusion for each level."""
        ours = [level.shape[1] for level in _levels(context.student_outputs, self.student_taps)]
        theirs = [level.shape[1] for level in _levels(teacher_of(context.teacher_outputs), self.teacher_taps)]
        inside = min(WIDEST, ours[0])
        pairs = zip(ours, theirs, range(len(ours)), strict=True)
        self.fusions = nn.ModuleList(
            made(partial(Fusion, s, inside, t, joins=n > 0), context.generator) for s, t, n in pairs
        )

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce`, `reviewkd`, and `kd` when it has a weight."""
        guide = teacher_of(teacher)
        losses: list[Tensor] = []
        deeper: Tensor | None = None
        with float32(student.logits):
            levels = zip(_levels(student, self.student_taps), _levels(guide, self.teacher_taps), strict=True)
            for fusion, (ours, theirs) in zip(self.fusions, levels, strict=True):
                fused, deeper = fusion(ours, deeper, theirs.shape[2:])
                losses.append(hierarchical_context(fused, theirs))
            loss = torch.stack(losses).sum()
        warm = warmed(progress.epoch, self.warmup)
        return {
            **supervised(student, guide, target, self.kd_weight, self.temperature),
            "reviewkd": warm * self.beta * loss,
        }


class Fusion(nn.Module):
    """A student's map joined with the deeper ones, each pixel weighted by attention, then brought to the teacher's width."""

    def __init__(self, inputs: int, inside: int, outputs: int, *, joins: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(inputs, inside, 1, bias=False), nn.BatchNorm2d(inside))
        self.attention = nn.Sequential(nn.Conv2d(2 * inside, 2, 1), nn.Sigmoid()) if joins else None
        self.leave = nn.Sequential(nn.Conv2d(inside, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, value: Tensor, deeper: Tensor | None, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Map [B, outputs, *size] for the teacher's, and the joined one [B, inside, *size] for the next level."""
        joined = self.enter(value)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, joined.shape[2:], mode="nearest")
            own, other = self.attention(torch.cat([joined, deeper], 1)).split(1, 1)
            joined = joined * own + deeper * other
        if joined.shape[2:] != size:
            joined = F.interpolate(joined, size, mode="nearest")
        return self.leave(joined), joined


def hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two maps [B, C, H, W] at their own size, weight 1, and pooled to those grids of 4, 2 and 1
    pixels a side that are smaller, weights 1/2, 1/4, ... in this order; divided by the sum of the weights.
    """
    grids = [grid for grid in GRIDS if grid < min(student.shape[2:])]
    total, weights, weight = F.mse_loss(student, teacher), 1.0, 1.0
    for grid in grids:
        weight /= 2
        ours, theirs = F.adaptive_avg_pool2d(student, grid), F.adaptive_avg_pool2d(teacher, grid)
        total, weights = total + weight * F.mse_loss(ours, theirs), weights + weight
    return total / weights


def _levels(outputs: Outputs, taps: Sequence[str]) -> list[Tensor]:
    pooled = read(outputs, ["pooled"], "pooled")[0]
    return [pooled.float()[:, :, None, None], *(value.float() for value in read(outputs, taps, "map"))]
