"""HMAT: another kind of attention at each depth: positions low, channels high, activations in the middle and high.

Source: Gou, Sun, Yu, Wan, Tao, Hierarchical Multi-Attention Transfer for Knowledge Distillation, 2023, abstract: which kind
at which depth. Equations, normalisations and weights are edgekd's own.
Needs: nothing. A network of 512 channels in its last stage costs 1 MiB a sample for each channel affinity, 2048 cost 16 MiB.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from edgekd.distillers.affinity import affinity_distance, positions
from edgekd.distillers.at import energy_distance
from edgekd.distillers.attention import float32, read
from edgekd.distillers.base import Context, Distiller, Outputs, Progress, Wanted, supervised, teacher_of
from edgekd.distillers.modules import made
from edgekd.distillers.stages import level
from edgekd.errors import RecipeError
from edgekd.taps import Reduction, feature_taps

LEVELS = ("low", "mid", "high")  # the first, the second and the last stage


class HMAT(Distiller):
    """edgekd reconstruction of HMAT: position attention low, channel attention high, activation attention mid and high.

    `CE + alpha_kd * KL_T + lambda_p * L_P + lambda_c * L_C + lambda_a * L_A`. L_P, L_C: row by row, the teacher's affinities
    of positions, of channels, against the student's. L_A: sum of `MSE(a(s), a(t))`, a the L2-normalised energy map. Where
    widths differ a 1x1 convolution and BatchNorm brings the student's to the teacher's before L_C.

    Args:
        lambda_p: Weight of position attention, >= 0.
        lambda_c: Weight of channel attention, >= 0.
        lambda_a: Weight of activation attention, >= 0.
        alpha_kd: Weight of the teacher's logits, >= 0.
        temperature: T, > 0.
        position: Position attention on.
        channel: Channel attention on.
        activation_mid: Activation attention on at the second stage.
        activation_high: Activation attention on at the last stage.
        all_levels: Every kind that is on at all three levels, which the paper argues against.
        affinity_loss: KL of softmax rows, or the mean squared difference of the cosines themselves.
    """

    reconstruction = True
    baseline = {"ce_weight": 1.0, "kd_weight": "alpha_kd", "temperature": "temperature"}

    def __init__(
        self,
        *,
        lambda_p: Annotated[float, Ge(0)] = 0.1,
        lambda_c: Annotated[float, Ge(0)] = 0.1,
        lambda_a: Annotated[float, Ge(0)] = 100.0,
        alpha_kd: Annotated[float, Ge(0)] = 0.9,
        temperature: Annotated[float, Gt(0)] = 4.0,
        position: bool = True,
        channel: bool = True,
        activation_mid: bool = True,
        activation_high: bool = True,
        all_levels: bool = False,
        affinity_loss: Literal["kl", "mse"] = "kl",
    ) -> None:
        super().__init__()
        self.weights = {"position": lambda_p, "channel": lambda_c, "activation": lambda_a}
        self.alpha_kd, self.temperature, self.affinity_loss = alpha_kd, temperature, affinity_loss
        activation = [name for name, on in (("mid", activation_mid), ("high", activation_high)) if on]
        own = {"position": ["low"] * position, "channel": ["high"] * channel, "activation": activation}
        self.at = {kind: list(LEVELS) if all_levels else levels for kind, levels in own.items() if levels}

    def wanted(self, student: Sequence[str], teacher: Sequence[str]) -> tuple[Wanted, Wanted]:
        """Maps where positions or channels are compared, energies where activations are."""
        if not self.at:
            kinds = "position, channel, activation_mid or activation_high"
            raise RecipeError("distill", "hmat with every attention off", kinds, "distill.use: kd")
        self.student_taps, self.teacher_taps = _levels(student, "student"), _levels(teacher, "teacher")
        return self._read_of(self.student_taps), self._read_of(self.teacher_taps)

    def setup(self, context: Context) -> None:
        """Make a projector for each channel attention between unequal widths."""
        guide = teacher_of(context.teacher_outputs)
        self.projectors = nn.ModuleDict()
        for name in self.at.get("channel", ()):
            ours, theirs = self._pair(context.student_outputs, guide, name, "map")
            if all(value.shape[2:].numel() == 1 for value in level(ours, theirs)):
                sizes = " and ".join("x".join(str(side) for side in value.shape[2:]) for value in (ours, theirs))
                raise RecipeError(
                    "distill.channel",
                    f"hmat: the {name} maps of student and teacher ({sizes}) meet in one pixel, where channels are all alike",
                    "larger images, or this attention off",
                    "--set distill.channel=false",
                )
            pair = (ours.shape[1], theirs.shape[1])
            if pair[0] != pair[1]:
                self.projectors[name] = made(partial(_projector, *pair), context.generator)

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce`, `kd` when it has a weight, and `hmat_<kind>` of each attention that is on."""
        guide = teacher_of(teacher)
        terms = supervised(student, guide, target, self.alpha_kd, self.temperature)
        with float32(student.logits):
            for kind, levels in self.at.items():
                losses = [self._loss(kind, student, guide, name) for name in levels]
                terms[f"hmat_{kind}"] = self.weights[kind] * torch.stack(losses).sum()
        return terms

    def _loss(self, kind: str, student: Outputs, teacher: Outputs, name: str) -> Tensor:
        if kind == "activation":
            return energy_distance(*self._pair(student, teacher, name, "energy"))
        ours, theirs = self._pair(student, teacher, name, "map")
        if kind == "position":
            return affinity_distance(positions(ours, theirs), positions(theirs, ours), self.affinity_loss)
        ours = self.projectors[name](ours) if name in self.projectors else ours
        ours, theirs = level(ours, theirs)
        return affinity_distance(ours.flatten(2), theirs.flatten(2), self.affinity_loss)

    def _pair(self, student: Outputs, teacher: Outputs, name: str, reduction: Reduction) -> tuple[Tensor, Tensor]:
        ours, theirs = [self.student_taps[name]], [self.teacher_taps[name]]
        return read(student, ours, reduction)[0].float(), read(teacher, theirs, reduction)[0].float()

    def _read_of(self, taps: dict[str, str]) -> Wanted:
        reductions: dict[str, Reduction] = {"position": "map", "channel": "map", "activation": "energy"}
        each = [(taps[name], reductions[kind]) for kind, levels in self.at.items() for name in levels]
        return list(dict.fromkeys(each))


def _levels(names: Sequence[str], network: str) -> dict[str, str]:
    stages = feature_taps(names, "stage", network)
    if len(stages) < len(LEVELS):
        found = f"hmat needs a low, a middle and a high stage, and the {network} has {len(stages)}"
        raise RecipeError("distill.use", found, "another method", "distill.use: at")
    return dict(zip(LEVELS, (stages[0], stages[1], stages[-1]), strict=True))


def _projector(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
