"""RTK: each teacher feature asks, by attention and likeness, which few student features are to learn from it.

What all energy maps share, their mean, is filtered out before they are compared: likeness is correlation.

An edgekd reconstruction, not the authors' code: only the abstract of the paper was available, every equation is ours.
Source: Yang, Kao, Huang, Knowledge Distillation with Representative Teacher Keys Based on Attention Mechanism for Image
Classification Model Compression, 2022, arXiv 2206.12788 (abstract).
Needs: nothing. Over 120 lines: its switches are its signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from edgekd.distillers.attention import Attention, MeanAttention, both, float32, read, widths
from edgekd.distillers.base import Context, Distiller, Outputs, Progress, Wanted, cross_entropy, kl, teacher_of
from edgekd.distillers.pairs import ChannelPairs, map_pairs
from edgekd.distillers.selection import MASKED, attend, auto_k
from edgekd.errors import RecipeError
from edgekd.taps import feature_taps

EPSILON = 1e-12  # of the key-relative distance


class RTK(Distiller):
    """Each teacher feature asks which few student features are to learn from it (edgekd reconstruction).

    `CE + alpha_kd * KL_T + beta * mean_b sum_i sum_j alpha_ij D~_ij`, the last term in the first `until` of the run.
    With `centre=false, until=1, select=all, dist_norm=none, sim_weight=0` it is AFD exactly.

    Args:
        beta: Weight of the features, >= 0.
        alpha_kd: Weight of the teacher's logits, >= 0.
        temperature: T, > 0.
        qk_dim: Size of queries and keys.
        attn_direction: `teacher_query`: softmax over the student taps for each teacher tap (as AFD), so that every teacher tap
            teaches; `student_query`: over the teacher taps for each student tap, which leaves most of them out
            (`docs/rtk-study.md`).
        select: Which keys count; see `selection.attend`.
        k: Keys per query (`topk`) or per query and resolution (`stage_topk`).
        centre: Compare energy maps less their means (a cosine is then a correlation); false: as AFD.
        until: Part of the run in which the features teach, in (0, 1]; after it labels and logits alone.
        dist_norm: `key`: each distance relative to its teacher tap's mean over the student taps.
        sim_weight: Weight of the values' cosine in the attention logit, >= 0.
        stage_mask: Forbid pairs of different resolutions.
        pos_embed: Learn tap positions.
        bilinear: A query map for each key, one for all, or none.
        value: What is matched: energy maps, pooled channels through a projection, or both (distances added).
        pair_loss: Distance of two values.
        attn_grad: Let the attention learn from the loss.
        rescale: Multiply by N_T / N_S: with student queries that is AFD's scale, with teacher queries it is without.
        key_warmup_epochs: Epochs in which all keys count.
        taps: One map of each residual block, or of each stage.
    """

    VERSION = 5
    reconstruction = True
    cached = ("energy", "pooled")
    baseline = {"ce_weight": 1.0, "kd_weight": "alpha_kd", "temperature": "temperature"}

    def __init__(
        self,
        *,
        beta: Annotated[float, Ge(0)] = 450.0,
        alpha_kd: Annotated[float, Ge(0)] = 0.9,
        temperature: Annotated[float, Gt(0)] = 4.0,
        qk_dim: Annotated[int, Ge(1)] = 128,
        attn_direction: Literal["student_query", "teacher_query"] = "teacher_query",
        select: Literal["topk", "all", "threshold", "argmax_ste", "stage_topk"] = "topk",
        k: Literal["auto"] | Annotated[int, Ge(2)] = "auto",
        centre: bool = True,
        until: Annotated[float, Gt(0), Le(1)] = 0.5,
        dist_norm: Literal["key", "none"] = "key",
        sim_weight: Annotated[float, Ge(0)] = 1.0,
        stage_mask: bool = False,
        pos_embed: bool = True,
        bilinear: Literal["per_key", "shared", "none"] = "per_key",
        value: Literal["at", "channel", "both"] = "at",
        pair_loss: Literal["mse", "smooth_l1", "cosine"] = "mse",
        attn_grad: bool = True,
        rescale: bool = False,
        key_warmup_epochs: Annotated[int, Ge(0)] = 0,
        taps: Literal["block", "stage"] = "block",
    ) -> None:
        super().__init__()
        if k != "auto" and select not in ("topk", "stage_topk"):
            raise RecipeError("distill.k", f"k is {k} and select is {select}", "k only with topk or stage_topk")
        self.beta, self.alpha_kd, self.temperature, self.qk_dim = beta, alpha_kd, temperature, qk_dim
        self.from_student, self.select, self.k, self.taps = attn_direction == "student_query", select, k, taps
        self.centre, self.until = centre, until
        self.dist_norm, self.sim_weight, self.stage_mask, self.pair_loss = dist_norm, sim_weight, stage_mask, pair_loss
        self.pos_embed, self.bilinear, self.value = pos_embed, bilinear, value
        self.attn_grad, self.rescale, self.key_warmup_epochs = attn_grad, rescale, key_warmup_epochs

    def wanted(self, student: Sequence[str], teacher: Sequence[str]) -> tuple[Wanted, Wanted]:
        """Energy and pooled vector of each tap.

        Raises:
            RecipeError: No such taps; more keys asked for than there are; attention that nothing could drive.
        """
        self.student_taps = feature_taps(student, self.taps, "student")
        self.teacher_taps = feature_taps(teacher, self.taps, "teacher")
        n_s, n_t = len(self.student_taps), len(self.teacher_taps)
        queries, keys = (n_s, n_t) if self.from_student else (n_t, n_s)
        if self.k != "auto" and self.k > keys:
            raise RecipeError("distill.k", f"k is {self.k} and there are {keys} keys", f"2 to {keys}, or auto")
        if n_s == 1 and self.dist_norm == "key" and self.sim_weight == 0:
            raise RecipeError(
                "distill.sim_weight", "0 with one student tap and dist_norm: key", "> 0, or dist_norm: none"
            )
        self.top = auto_k(queries, keys) if self.k == "auto" else self.k
        return both(self.student_taps), both(self.teacher_taps)

    def setup(self, context: Context) -> None:
        """Make the attention network for these widths.

        Raises:
            RecipeError: `stage_mask` leaves a query without keys.
        """
        shown, guide, random = context.student_outputs, teacher_of(context.teacher_outputs), context.generator
        student, teacher = widths(shown, self.student_taps), widths(guide, self.teacher_taps)
        self.attention = Attention(
            student, teacher, self.qk_dim, random, bilinear=self.bilinear, positions=self.pos_embed
        )
        self.channels = None if self.value == "at" else ChannelPairs(student, teacher, random)
        self.seen = MeanAttention(self.student_taps, self.teacher_taps)
        s = [tuple(energy.shape[1:]) for energy in read(shown, self.student_taps, "energy")]
        t = [tuple(energy.shape[1:]) for energy in read(guide, self.teacher_taps, "energy")]
        self.groups = [len(list(run)) for _, run in groupby(t if self.from_student else s)]
        forbidden = torch.tensor([[self.stage_mask and row != column for column in t] for row in s])
        self.register_buffer("forbidden", forbidden, persistent=False)
        if forbidden.all(dim=1 if self.from_student else 0).any():
            raise RecipeError(
                "distill.stage_mask", f"resolutions {s} and {t}", "a key of its resolution for each query"
            )

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce`, `kd` and `rtk`, which is 0 after its part of the run."""
        guide = teacher_of(teacher)
        terms = {
            "ce": cross_entropy(student.logits, target),
            "kd": self.alpha_kd * kl(student.logits, guide.logits, self.temperature),
            "rtk": student.logits.new_zeros(()),
        }
        if progress.fraction >= self.until:
            return terms
        with float32(student.logits):
            cosine, distance = self.pairs(student, guide)
            alpha = self.alpha(student, guide, cosine, progress.epoch)
            terms["rtk"] = self.beta * self.loss(alpha, distance)
        if self.training:
            self.seen.add(alpha)
        return terms

    def pairs(self, student: Outputs, guide: Outputs) -> tuple[Tensor, Tensor]:
        """Cosines c and distances D [B, N_S, N_T] of the values."""
        s, t, found = self.student_taps, self.teacher_taps, []
        if self.value != "channel":
            maps = read(student, s, "energy"), read(guide, t, "energy")
            found.append(map_pairs(*maps, self.pair_loss, centre=self.centre))
        if self.channels is not None:
            found.append(self.channels(read(student, s, "pooled"), read(guide, t, "pooled"), self.pair_loss))
        cosine = torch.stack([c for c, _ in found]).mean(0) if len(found) > 1 else found[0][0]
        return cosine, sum((d for _, d in found[1:]), found[0][1])

    def alpha(self, student: Outputs, guide: Outputs, cosine: Tensor, epoch: int) -> Tensor:
        """Attention [B, N_S, N_T]; sums to 1 over the keys of each query."""
        logits = self.attention(read(student, self.student_taps, "pooled"), read(guide, self.teacher_taps, "pooled"))
        logits = logits + self.sim_weight * cosine.detach()
        if self.stage_mask:
            logits = logits.masked_fill(self.forbidden, MASKED)
        select = "all" if epoch < self.key_warmup_epochs else self.select
        if self.from_student:
            return attend(logits, select, self.top, self.groups)
        return attend(logits.transpose(1, 2), select, self.top, self.groups).transpose(1, 2)

    def loss(self, alpha: Tensor, distance: Tensor) -> Tensor:
        """Mean over the batch of the attended, key-relative distances."""
        if self.dist_norm == "key":
            free = distance.detach()
            distance = distance * (free.mean() / (free.mean(1, keepdim=True) + EPSILON))
        total = ((alpha if self.attn_grad else alpha.detach()) * distance).sum((1, 2)).mean()
        return total * (len(self.teacher_taps) / len(self.student_taps)) if self.rescale else total

    def diagnostics(self) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """Mean attention [N_S, N_T] since the last call; each row sums to 1 (teacher_query: each column)."""
        return self.seen.read()
