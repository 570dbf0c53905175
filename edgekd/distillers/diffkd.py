"""DiffKD: the student's map and logits, denoised by a small diffusion model of the teacher's, meet the teacher's.

Source: Huang, Zhang, Zheng, You, Wang, Qian, Xu, Knowledge Diffusion for Distillation, NeurIPS 2023, arXiv 2305.15712;
released code hunto/DiffKD. Nothing was released for small images: the temperature and when the autoencoder is on are edgekd's.
Needs: nothing. Extra parameters while training: 105,906 (64 channels on both sides) to 694,722 (256), 339,554 with an
autoencoder of 128, plus the logits' branch, 352,302 for 100 classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor

from edgekd.distillers.attention import float32, read
from edgekd.distillers.base import Context, Distiller, Outputs, Progress, Wanted, kl, supervised, teacher_of
from edgekd.distillers.diffusion import Branch, Denoised
from edgekd.distillers.modules import made
from edgekd.distillers.stages import deepest, level, maps
from edgekd.errors import RecipeError

LAST = "last"
WIDEST_PLAIN = 128  # channels of a teacher that `auto` uses as they are


class DiffKD(Distiller):
    """The student as a noisy teacher: `CE + kd_weight * KL_T + beta * sum (L_match + L_noise + L_code)` of two branches.

    One branch for the last maps (L_match: MSE), one for the logits (KL_T). L_noise: the noise predictor on the teacher;
    L_code: the autoencoder, for maps alone. The map is what the network pools for its classifier, or where one of the two
    has no such tap the deepest stage of both; of two sizes the larger is pooled.

    Args:
        beta: Weight of both branches, >= 0.
        kd_weight: Weight of the teacher's logits as they are, >= 0.
        temperature: T of the logits' branch and of KD, > 0.
        use_ae: Autoencoder for the teacher's map; auto: when it has more than 128 channels, or `ae_channels` is a number.
        ae_channels: Of the autoencoder; auto: half the teacher's.
        inference_steps: Of the denoising.
    """

    baseline = {"ce_weight": 1.0, "kd_weight": "kd_weight", "temperature": "temperature"}

    def __init__(
        self,
        *,
        beta: Annotated[float, Ge(0)] = 1.0,
        kd_weight: Annotated[float, Ge(0)] = 0.0,
        temperature: Annotated[float, Gt(0)] = 4.0,
        use_ae: Literal["auto"] | bool = "auto",
        ae_channels: Literal["auto"] | Annotated[int, Ge(1)] = "auto",
        inference_steps: Annotated[int, Ge(1), Le(500)] = 5,
    ) -> None:
        super().__init__()
        if use_ae is False and ae_channels != "auto":
            raise RecipeError(
                "distill.ae_channels", f"{ae_channels} and use_ae is false", "ae_channels only with an autoencoder"
            )
        self.beta, self.kd_weight, self.temperature = beta, kd_weight, temperature
        self.use_ae, self.ae_channels, self.inference_steps = use_ae, ae_channels, inference_steps

    def wanted(self, student: Sequence[str], teacher: Sequence[str]) -> tuple[Wanted, Wanted]:
        """The map of either network."""
        if LAST in student and LAST in teacher:
            self.taps = LAST, LAST
        else:
            ours, theirs = deepest(student, teacher)
            self.taps = ours[-1], theirs[-1]
        return maps(self.taps[:1]), maps(self.taps[1:])

    def setup(self, context: Context) -> None:
        """Make both branches."""
        ours, theirs = self._maps(context.student_outputs, teacher_of(context.teacher_outputs))
        s, t, steps, random = ours.shape[1], theirs.shape[1], self.inference_steps, context.generator
        code = self._code(t)
        self.features = made(lambda: Branch(s, t, code=code, steps=steps), random)
        self.logits = made(lambda: Branch(context.classes, context.classes, flat=True, steps=steps), random)

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce`, `diffkd`, `diffkd_noise`, `diffkd_code` with an autoencoder, and `kd` when it has a weight."""
        guide = teacher_of(teacher)
        ours, theirs = self._maps(student, guide)
        with float32(student.logits):
            map_: Denoised = self.features(*level(ours, theirs), progress.generator)
            flat: Denoised = self.logits(_as_map(student.logits), _as_map(guide.logits), progress.generator)
            match = F.mse_loss(map_.student, map_.teacher)
            match = match + kl(flat.student.flatten(1), guide.logits, self.temperature)
        code = {} if map_.code_loss is None else {"diffkd_code": self.beta * map_.code_loss}
        return {
            **supervised(student, guide, target, self.kd_weight, self.temperature),
            "diffkd": self.beta * match,
            "diffkd_noise": self.beta * (map_.noise_loss + flat.noise_loss),
            **code,
        }

    def _maps(self, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
        (ours,), (theirs,) = read(student, self.taps[:1], "map"), read(teacher, self.taps[1:], "map")
        return ours.float(), theirs.float()

    def _code(self, channels: int) -> int | None:
        """Channels of the autoencoder for a teacher of so many."""
        if self.use_ae is False or (self.use_ae == "auto" and channels <= WIDEST_PLAIN and self.ae_channels == "auto"):
            return None
        return max(channels // 2, 1) if self.ae_channels == "auto" else self.ae_channels


def _as_map(logits: Tensor) -> Tensor:
    """[B, classes, 1, 1] of logits [B, classes]."""
    return logits.float()[:, :, None, None]
