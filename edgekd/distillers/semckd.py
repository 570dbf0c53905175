"""SemCKD: each student stage learns from all teacher stages, more from those that see the batch alike.

Source: Chen, Mei, Zhang, Wang, Feng, Chen, Cross-Layer Distillation with Semantic Calibration, AAAI 2021; released code
DefangChen/SemCKD. Differs: batches of any size are taken. The released code fixes the size and leaves the last, smaller batch
out; here a batch is cut into groups of `batch_size` images, the last one filled up with zeros: at `batch_size` images it is the
released form. Stages are all of both networks.
Needs: nothing. Extra parameters while training: for each pair of stages a bottleneck of ~38 C_t^2 (C_t 64 to 256: 3.2 M for
each student stage; 512: 10 M).
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
from edgekd.distillers.modules import made
from edgekd.distillers.stages import level, maps
from edgekd.taps import feature_taps

SHARE = 4  # images of a group to one entry of a query or key
LEAST = 2  # entries: a unit vector of one has no gradient


class SemCKD(Distiller):
    """Attention over the teacher's stages: `CE + kd_weight * KL_T + beta / (B * N_S) * sum_b sum_st alpha_bst MSE_bst`.

    alpha: softmax over t of `<query_s, key_t>`, unit vectors that small networks make of an image's inner products with the
    batch. MSE: of the student's map through a bottleneck of the pair and the teacher's, the larger pooled.

    Args:
        beta: Weight of the stages, >= 0. At 400 training was seen to diverge at rate 0.1 (batches of 32); 50 held.
        kd_weight: Weight of the teacher's logits, >= 0.
        temperature: T, > 0.
        batch_size: Images that are compared with each other: the recipe's `student.fit.batch_size` (of one process) in the
            source. Larger batches are cut into groups of that many, what is missing in a smaller one counts as zeros.
    """

    baseline = {"ce_weight": 1.0, "kd_weight": "kd_weight", "temperature": "temperature"}

    def __init__(
        self,
        *,
        beta: Annotated[float, Ge(0)] = 400.0,
        kd_weight: Annotated[float, Ge(0)] = 1.0,
        temperature: Annotated[float, Gt(0)] = 4.0,
        batch_size: Annotated[int, Ge(2)] = 64,
    ) -> None:
        super().__init__()
        self.beta, self.kd_weight, self.temperature, self.batch_size = beta, kd_weight, temperature, batch_size

    def wanted(self, student: Sequence[str], teacher: Sequence[str]) -> tuple[Wanted, Wanted]:
        """The maps of all stages."""
        self.student_taps = feature_taps(student, "stage", "student")
        self.teacher_taps = feature_taps(teacher, "stage", "teacher")
        return maps(self.student_taps), maps(self.teacher_taps)

    def setup(self, context: Context) -> None:
        """Make queries, keys and a bottleneck for each pair of stages."""
        ours = [tap.shape[1] for tap in read(context.student_outputs, self.student_taps, "map")]
        theirs = [tap.shape[1] for tap in read(teacher_of(context.teacher_outputs), self.teacher_taps, "map")]
        random = context.generator
        self.queries = nn.ModuleList(made(self._embedding, random) for _ in ours)
        self.keys = nn.ModuleList(made(self._embedding, random) for _ in theirs)
        pairs = [(s, t) for s in ours for t in theirs]
        self.bottlenecks = nn.ModuleList(made(partial(_bottleneck, *pair), random) for pair in pairs)

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce`, `semckd`, and `kd` when it has a weight."""
        guide = teacher_of(teacher)
        with float32(student.logits):
            ours = [tap.float() for tap in read(student, self.student_taps, "map")]
            theirs = [tap.float() for tap in read(guide, self.teacher_taps, "map")]
            loss = (self.attention(ours, theirs) * self.distances(ours, theirs)).sum((1, 2)).mean() / len(ours)
        return {
            **supervised(student, guide, target, self.kd_weight, self.temperature),
            "semckd": self.beta * loss,
        }

    def attention(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """[B, N_S, N_T], sums to 1 over the teacher's stages, of maps [B, C, H, W]."""
        queries = [F.normalize(query(self._gram(tap)), dim=1) for query, tap in zip(self.queries, student, strict=True)]
        keys = [F.normalize(key(self._gram(tap)), dim=1) for key, tap in zip(self.keys, teacher, strict=True)]
        return torch.bmm(torch.stack(queries, dim=1), torch.stack(keys, dim=2)).softmax(dim=2)

    def distances(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """[B, N_S, N_T]: mean squared difference of each pair of maps [B, C, H, W]."""
        found, bottlenecks = [], iter(self.bottlenecks)
        for ours in student:
            row = []
            for theirs in teacher:
                s, t = level(ours, theirs)
                row.append((next(bottlenecks)(s) - t).square().mean((1, 2, 3)))
            found.append(torch.stack(row, dim=1))
        return torch.stack(found, dim=1)

    def _gram(self, tap: Tensor) -> Tensor:
        """Inner products [B, batch_size] of each map [B, C, H, W] with those of its group."""
        rows = tap.flatten(1)
        missing = -len(rows) % self.batch_size
        groups = F.pad(rows, (0, 0, 0, missing)).view(-1, self.batch_size, rows.shape[1])
        return torch.bmm(groups, groups.transpose(1, 2)).flatten(0, 1)[: len(rows)]

    def _embedding(self) -> nn.Module:
        size = max(self.batch_size // SHARE, LEAST)
        return nn.Sequential(nn.Linear(self.batch_size, 2 * size), nn.ReLU(), nn.Linear(2 * size, size))


def _bottleneck(inputs: int, outputs: int) -> nn.Module:
    """Student maps of `inputs` channels in the teacher's `outputs`; without biases, as each BatchNorm has one."""
    middle = 2 * outputs
    return nn.Sequential(
        *(nn.Conv2d(inputs, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU()),
        *(nn.Conv2d(middle, middle, 3, padding=1, bias=False), nn.BatchNorm2d(middle), nn.ReLU()),
        nn.Conv2d(middle, outputs, 1, bias=False),
    )
