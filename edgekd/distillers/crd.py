"""CRD: an image's student vector is near its own teacher vector and far from those of images of other classes.

Source: Tian, Krishnan, Isola, Contrastive Representation Distillation, ICLR 2020, section 3; released code RepDistiller.
Differs: the negatives of a batch are windows of one permutation of the training images (`Negatives`). Those of one image
are, as in the released code, a uniform draw without replacement from the images of other classes (with replacement where
there are too few); those of two images are not independent draws.
Needs: memory for a row of each training image and network, kept in checkpoints: 2 x 25.6 MB for 50,000 images. A step
scores the batch against all rows and keeps the scores of those drawn (2 x 12.8 MB at a batch of 64) in place of gathering
B x nce_k rows (2 x 537 MB). Extra parameters while training: two linear layers to `dim`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from edgekd.distillers.attention import float32
from edgekd.distillers.base import Context, Distiller, Outputs, Progress, Wanted, supervised, teacher_of
from edgekd.distillers.contrast import Negatives, contrast, gathered, scored
from edgekd.distillers.modules import made
from edgekd.distillers.vectors import both_pooled, pooled, unit
from edgekd.errors import RecipeError


class CRD(Distiller):
    """Contrast against stored vectors of other classes: `CE + kd_weight * KL_T + beta * (L_s + L_t)`.

    With `P = exp(<row, e> / nce_temperature) / Z`, m = nce_k and c = m / N, L_s of the student's embeddings against the
    teacher's rows, L_t the other way:
    `L = -mean_b [log(P_own / (P_own + c)) + sum_m log(c / (P_m + c))]`.

    Args:
        beta: Weight of the contrast, >= 0.
        kd_weight: Weight of the teacher's logits, >= 0 (CRD+KD: 1).
        temperature: T, > 0.
        nce_k: Negatives of each image: 16,384 of the source's 50,000; of fewer training images about a third of them (with more
            than there are, each is drawn several times and the pull towards the own row never ends).
        dim: Size of the embeddings.
        nce_temperature: Of the scores, > 0.
        momentum: Part of a stored row that stays when its image is seen, in [0, 1).
    """

    baseline = {"ce_weight": 1.0, "kd_weight": "kd_weight", "temperature": "temperature"}

    student_rows: Tensor
    teacher_rows: Tensor
    constants: Tensor

    def __init__(
        self,
        *,
        beta: Annotated[float, Ge(0)] = 0.8,
        kd_weight: Annotated[float, Ge(0)] = 0.0,
        temperature: Annotated[float, Gt(0)] = 4.0,
        nce_k: Annotated[int, Ge(1)] = 16384,
        dim: Annotated[int, Ge(2)] = 128,
        nce_temperature: Annotated[float, Gt(0)] = 0.07,
        momentum: Annotated[float, Ge(0), Lt(1)] = 0.5,
    ) -> None:
        super().__init__()
        self.beta, self.kd_weight, self.temperature, self.nce_k = beta, kd_weight, temperature, nce_k
        self.dim, self.nce_temperature, self.momentum = dim, nce_temperature, momentum
        self.seen: tuple[Tensor, Tensor, Tensor] | None = None

    def wanted(self, student: Sequence[str], teacher: Sequence[str]) -> tuple[Wanted, Wanted]:
        """The pooled vectors."""
        return both_pooled(student, teacher, "crd")

    def setup(self, context: Context) -> None:
        """Make embeddings and rows.

        Raises:
            RecipeError: All training images are of one class.
        """
        random, n = context.generator, len(context.labels)
        if (context.labels == context.labels[0]).all():
            found = "all training images are of one class"
            raise RecipeError("distill.use", found, "images of other classes for crd", "distill.use=rkd")
        self.negatives = Negatives(context.labels, self.nce_k)
        widths = pooled(context.student_outputs).shape[1], pooled(teacher_of(context.teacher_outputs)).shape[1]
        self.student_embedding, self.teacher_embedding = (
            made(partial(nn.Linear, width, self.dim), random) for width in widths
        )
        bound = 1 / math.sqrt(self.dim / 3)
        for name in ("student_rows", "teacher_rows"):
            self.register_buffer(name, torch.empty(n, self.dim).uniform_(-bound, bound, generator=random))
        self.register_buffer("constants", torch.zeros(2))  # Z of either side's scores; 0 before the first batch

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce`, `crd`, and `kd` when it has a weight.

        Raises:
            RecipeError: The batch does not say which images it holds.
        """
        guide, index = teacher_of(teacher), student.index
        if index is None:
            raise RecipeError("distill.use", "the batch does not say which images it holds", "their rows, for crd")
        with float32(student.logits):
            ours = unit(self.student_embedding(pooled(student).float()))
            theirs = unit(self.teacher_embedding(pooled(guide).float()))
            drawn = torch.cat([index.unsqueeze(1), self.negatives.draw(index, progress.generator)], dim=1)
            loss = self._loss(ours, self.teacher_rows, drawn, 0) + self._loss(theirs, self.student_rows, drawn, 1)
        self.seen = index, ours.detach(), theirs.detach()
        return {
            **supervised(student, guide, target, self.kd_weight, self.temperature),
            "crd": self.beta * loss,
        }

    @torch.no_grad()
    def after_backward(self, progress: Progress) -> None:
        """Move the rows of the images of the batch, of all processes: only now, for the backward pass reads them."""
        if self.seen is None:
            return
        index, ours, theirs = (gathered(part) for part in self.seen)
        for rows, fresh in ((self.student_rows, ours), (self.teacher_rows, theirs)):
            rows[index] = unit(self.momentum * rows[index] + (1 - self.momentum) * fresh)
        self.seen = None

    def _loss(self, embeddings: Tensor, rows: Tensor, drawn: Tensor, side: int) -> Tensor:
        """Of embeddings [B, dim] against the rows drawn of all [N, dim], the image's own first."""
        scores = scored(embeddings, rows, drawn, self.nce_temperature)
        with torch.no_grad():  # Z: the estimate of the first batch, the mean of those of all processes, for good
            known, estimate = self.constants[side], gathered(scores.mean().view(1)).mean() * len(rows)
            constant = torch.where(known > 0, known, estimate)
            if self.training:
                self.constants[side] = constant
        return contrast(scores / constant, len(rows))
