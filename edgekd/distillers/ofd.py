"""OFD: the student's maps before their ReLU become the teacher's, but where both are of no consequence after it.

Source: Heo, Kim, Yun, Park, Kwak, Choi, A Comprehensive Overhaul of Feature Distillation, 2019, section 3 (margin ReLU,
partial L2); connectors and weights as in mdistiller. Differs: where the student's map is the larger it is pooled to the
teacher's size (there the teacher's always takes the student's).
Needs: a teacher with a BatchNorm before the last ReLU of each stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from edgekd.distillers.attention import float32, read
from edgekd.distillers.base import Context, Distiller, Outputs, Progress, Wanted, supervised, teacher_of
from edgekd.distillers.modules import made
from edgekd.distillers.stages import before_relu, deepest, level, maps
from edgekd.errors import RecipeError
from edgekd.models.prenorm import norms_before

RAREST = 1e-3  # part of a channel below 0 from which its mean there is taken; under it the margin is -3 sigma
LEAST = 1e-12  # sigma that is divided by
HINT = "distill.use: reviewkd, which takes any teacher with maps"


class OFD(Distiller):
    """Maps before the ReLU, partial L2 over a margin: `CE + kd_weight * KL_T + beta * sum_i 2^-(L-1-i) * d(c(s_i), t_i)`.

    d: squared differences summed over a map, mean over the batch. c: 1x1 convolution and BatchNorm. Stages are paired from
    the deep end, of two sizes the larger is pooled. A student without such taps (linear bottlenecks, networks of other
    packages) shows its stage maps: c is affine, and makes negative values of maps that have none.

    Args:
        beta: Weight of the stages, >= 0.
        kd_weight: Weight of the teacher's logits, >= 0.
        temperature: T, > 0.
    """

    baseline = {"ce_weight": 1.0, "kd_weight": "kd_weight", "temperature": "temperature"}

    def __init__(
        self,
        *,
        beta: Annotated[float, Ge(0)] = 0.001,
        kd_weight: Annotated[float, Ge(0)] = 0.0,
        temperature: Annotated[float, Gt(0)] = 4.0,
    ) -> None:
        super().__init__()
        self.beta, self.kd_weight, self.temperature = beta, kd_weight, temperature

    def wanted(self, student: Sequence[str], teacher: Sequence[str]) -> tuple[Wanted, Wanted]:
        """The maps of the paired stages, before their last ReLU."""
        ours, theirs = deepest(student, teacher)
        self.student_taps, self.teacher_taps = before_relu(ours, student), before_relu(theirs, teacher)
        if self.teacher_taps == theirs:
            found = "ofd needs maps before their ReLU, and the teacher has none"
            raise RecipeError("distill.use", found, "another method", HINT)
        return maps(self.student_taps), maps(self.teacher_taps)

    def setup(self, context: Context) -> None:
        """Make the connectors, and read the margins off the teacher's BatchNorms."""
        assert context.teacher is not None
        shown = read(context.student_outputs, self.student_taps, "map")
        norms = norms_before(context.teacher, self.teacher_taps)
        self.connectors = nn.ModuleList()
        for tap, value, norm in zip(self.teacher_taps, shown, norms, strict=True):
            if norm is None:
                found = f"ofd finds no BatchNorm before the ReLU of {tap} in the teacher"
                raise RecipeError("distill.use", found, "another method", HINT)
            connect = partial(Connector, value.shape[1], norm)
            self.connectors.append(made(connect, context.generator))

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce`, `ofd`, and `kd` when it has a weight."""
        guide = teacher_of(teacher)
        with float32(student.logits):
            ours, theirs = read(student, self.student_taps, "map"), read(guide, self.teacher_taps, "map")
            each = zip(self.connectors, ours, theirs, strict=True)
            losses = [connector(s, t) / 2**depth for depth, (connector, s, t) in enumerate(reversed(list(each)))]
            loss = torch.stack(losses).sum()
        return {
            **supervised(student, guide, target, self.kd_weight, self.temperature),
            "ofd": self.beta * loss,
        }


class Connector(nn.Module):
    """Distance of a student's map, through a 1x1 convolution and BatchNorm, to a teacher's that comes out of `norm`."""

    margins: Tensor

    def __init__(self, inputs: int, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        width = norm.num_features
        self.layers = nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width))
        self.register_buffer("margins", margin(norm.weight, norm.bias), persistent=False)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Partial L2 of maps [B, C_s, H, W] and [B, C_t, h, w]."""
        ours, theirs = level(student.float(), teacher.float())
        return partial_l2(self.layers(ours), theirs, self.margins)


def margin(weight: Tensor, bias: Tensor) -> Tensor:
    """Mean of the negative values of each channel [C] after a BatchNorm, of Gaussian values of deviation |weight| around bias."""
    mu, sigma = bias.detach().cpu().double(), weight.detach().cpu().double().abs().clamp_min(LEAST)
    ratio = mu / sigma
    below = torch.special.ndtr(-ratio)
    density = torch.exp(-ratio.square() / 2) / (2 * torch.pi) ** 0.5
    mean = mu - sigma * density / below.clamp_min(RAREST)
    return torch.where(below > RAREST, mean, -3 * sigma).float()


def partial_l2(student: Tensor, teacher: Tensor, margins: Tensor) -> Tensor:
    """Squared distance of maps [B, C, H, W], summed but for the batch: to the teacher's value where that is positive; else
    to it, and no lower than its channel's margin [C], where the student is above.
    """
    goal = torch.maximum(teacher, margins.view(1, -1, 1, 1))
    counted = (student > goal) | (teacher > 0)
    return ((student - goal).square() * counted).sum() / len(student)
