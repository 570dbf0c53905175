"""KDFM: the student makes the teacher's feature map for a shared classifier, and a discriminator must not tell the two.

An edgekd reconstruction, not the authors' code: only the abstract was available, every equation is ours.
Source: Chen, Chang, Lu, Lee, Knowledge Distillation with Feature Maps for Image Classification, ACCV 2018, arXiv
1812.00660 (abstract). Extra trainable parameters: the discriminator, 1.4 M at 448 channels of the teacher, 3.1 M at 1168,
and the adapter, which stays in the deployed network.
Needs: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from edgekd.distillers.attention import float32
from edgekd.distillers.base import Context, Distiller, Outputs, Progress, Wanted, cross_entropy, kl, teacher_of
from edgekd.distillers.borrowed import LAST, classifier, convolution, last_maps, shrink
from edgekd.distillers.discriminator import Adversary, Discriminator, accuracy, detached, fooling, telling
from edgekd.distillers.modules import made
from edgekd.distillers.stages import level
from edgekd.models.grafted import adapter, graft

RATE, BETAS = 2e-4, (0.5, 0.999)  # Adam of the discriminator
ENOUGH = 0.05  # loss of a batch below which the discriminator is not trained: it wins easily


class KDFM(Distiller):
    """The teacher's last map through an adapter, its classifier and an adversary (edgekd reconstruction).

    `CE(C(F_s)) + r * adv_weight * 0.5 mean (D(F_s) - 1)^2 + map_weight * MSE(F_s, F_t) + kd_weight * KL_T(C(F_s))`, F_s the
    adapted last map (1x1 convolution, BatchNorm, ReLU; nothing where shapes are equal), r rising over `ramp_epochs`. The
    discriminator D learns beside it. Adapter and classifier are part of the deployed network.

    Args:
        adv: The adversarial loss; none: no discriminator.
        adv_weight: Of the adversarial loss, >= 0.
        map_weight: Of the maps' distance, >= 0.
        kd_weight: Of the teacher's logits, >= 0.
        temperature: T, > 0.
        share_classifier: C is the teacher's and fixed, the teacher's and trained, or a new one.
        fm_loss: Distance of the maps, or none.
        ramp_epochs: Epochs over which the adversarial loss rises from 0.
    """

    reconstruction = True
    baseline = {"ce_weight": 1.0, "kd_weight": "kd_weight", "temperature": "temperature"}

    def __init__(
        self,
        *,
        adv: Literal["lsgan", "hinge", "bce", "none"] = "lsgan",
        adv_weight: Annotated[float, Ge(0)] = 0.1,
        map_weight: Annotated[float, Ge(0)] = 1.0,
        kd_weight: Annotated[float, Ge(0)] = 0.0,
        temperature: Annotated[float, Gt(0)] = 4.0,
        share_classifier: Literal["frozen", "finetune", "own"] = "frozen",
        fm_loss: Literal["mse", "l1", "none"] = "mse",
        ramp_epochs: Annotated[int, Ge(0)] = 5,
    ) -> None:
        super().__init__()
        self.adv: Adversary | None = None if adv == "none" else adv
        self.adv_weight, self.map_weight, self.kd_weight, self.temperature = (
            adv_weight,
            map_weight,
            kd_weight,
            temperature,
        )
        self.share_classifier, self.fm_loss, self.ramp_epochs = share_classifier, fm_loss, ramp_epochs
        self.told: list[Tensor] = []  # accuracy and loss of the discriminator, step by step
        self.moved = 0

    def wanted(self, student: Sequence[str], teacher: Sequence[str]) -> tuple[Wanted, Wanted]:
        """The last map of both."""
        return last_maps(student, teacher)

    def setup(self, context: Context) -> None:
        """Make adapter, classifier and discriminator.

        Raises:
            RecipeError: A network has no linear classifier on its last map.
        """
        ours, theirs = context.student_outputs.taps[LAST], teacher_of(context.teacher_outputs).taps[LAST]
        inputs, outputs = ours.shape[1], theirs.shape[1]
        layers = [] if ours.shape == theirs.shape else shrink(ours, theirs) + convolution(inputs, outputs, 1)
        self.adapter = made(lambda: adapter(layers), context.generator)
        self.classifier = classifier(context).requires_grad_(self.share_classifier != "frozen")
        if self.share_classifier == "own":
            self.classifier = made(lambda: nn.Linear(outputs, context.classes), context.generator)
        self.discriminator: Discriminator | None = None
        if self.adv is not None:
            self.discriminator = made(lambda: Discriminator(outputs), context.generator)
            self.optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=RATE, betas=BETAS)

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """That of the discriminator."""
        return {"discriminator": self.optimizer} if self.discriminator is not None else {}

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce`, `kd` (with a weight), `kdfm_map`, `kdfm_adv` and `kdfm_disc`, the discriminator's own."""
        guide = teacher_of(teacher)
        with float32(student.logits):
            adapted = self.adapter(student.taps[LAST].float())
            logits = self.classifier(adapted.mean((2, 3)))
            ours, theirs = level(adapted, guide.taps[LAST].float())
            terms = {"ce": cross_entropy(logits, target)}
            if self.kd_weight:
                terms["kd"] = self.kd_weight * kl(logits, guide.logits, self.temperature)
            if self.fm_loss != "none":
                distance = F.mse_loss if self.fm_loss == "mse" else F.l1_loss
                terms["kdfm_map"] = self.map_weight * distance(ours, theirs)
            return terms | self._contest(ours, theirs, progress.epoch)

    def _contest(self, ours: Tensor, theirs: Tensor, epoch: int) -> dict[str, Tensor]:
        """Both sides of the contest, each with gradients to its own parameters alone, so that all terms go backward once."""
        if self.discriminator is None or self.adv is None:
            return {}
        weights = self.discriminator.weights()
        real, fake = self.discriminator(torch.cat([theirs, ours.detach()]), weights).chunk(2)
        loss = telling(self.adv, real, fake)
        if self.training:
            self.told.append(torch.stack([accuracy(self.adv, real, fake), loss]).detach())
        ramp = min(epoch / self.ramp_epochs, 1.0) if self.ramp_epochs else 1.0
        fooled = fooling(self.adv, self.discriminator(ours, detached(weights)))
        return {"kdfm_adv": ramp * self.adv_weight * fooled, "kdfm_disc": loss}

    def after_backward(self, progress: Progress) -> None:
        """Leave the discriminator as it is when its loss of this batch, over all processes, is small."""
        if self.discriminator is None or not self.told:
            return
        loss = self.told[-1][1].clone()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(loss)
            loss /= torch.distributed.get_world_size()
        if float(loss) >= ENOUGH:
            self.moved += 1
            return
        for parameter in self.discriminator.parameters():
            parameter.grad = None

    def diagnostics(self) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """Since the last call: share of maps that the discriminator told right, and share of steps that trained it."""
        if not self.told:
            return {}
        right, moved = float(torch.stack(self.told)[:, 0].mean()), self.moved / len(self.told)
        self.told, self.moved = [], 0
        return {"discriminator_accuracy": np.array(right), "discriminator_trained": np.array(moved)}

    def deploy(self, student: nn.Module) -> nn.Module:
        """A copy of the student with the adapter before its pool and the classifier behind it."""
        return graft(student, self.adapter, self.classifier)
