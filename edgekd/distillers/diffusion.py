"""A small diffusion model of the teacher's maps or logits, and the student denoised by it (DiffKD).

All convolutions have biases, those before a BatchNorm too, as in the released code: the numbers of parameters are its.

Source: Huang, Zhang, Zheng, You, Wang, Qian, Xu, Knowledge Diffusion for Distillation, NeurIPS 2023, arXiv 2305.15712;
released code hunto/DiffKD. The sampler: Song, Meng, Ermon, Denoising Diffusion Implicit Models, 2021, equation 12 with eta = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.distillers.drawing import generator_on

TRAIN_STEPS = 1000
FIRST_BETA, LAST_BETA = 1e-4, 0.02
TIMES = 1280  # rows of the table of time embeddings; those above 999 stay as they are
LEAST_WIDTH = 4  # inside a bottleneck


class Denoised(NamedTuple):
    """What a branch gives.

    Attributes:
        student: Denoised and projected [B, C, H, W].
        teacher: What it should be like [B, C, H, W], without gradient.
        noise_loss: Of the noise predictor on the teacher.
        code_loss: Of the autoencoder; None without one.
    """

    student: Tensor
    teacher: Tensor
    noise_loss: Tensor
    code_loss: Tensor | None


class Branch(nn.Module):
    """Diffusion model, noise matching and projections for one kind of tensor [B, C, H, W].

    Args:
        student: Its channels.
        teacher: Its channels.
        code: Channels that a linear autoencoder brings the teacher to; None: none.
        flat: H = W = 1 (logits): 1x1 convolutions throughout, no bottlenecks.
        steps: Of the denoising.
    """

    kept: Tensor

    def __init__(
        self, student: int, teacher: int, *, code: int | None = None, flat: bool = False, steps: int = 5
    ) -> None:
        super().__init__()
        width, self.steps = code or teacher, steps
        self.encoder = None if code is None else nn.Sequential(nn.Conv2d(teacher, code, 1), nn.BatchNorm2d(code))
        self.decoder = None if code is None else nn.Conv2d(code, teacher, 1)
        self.entry = nn.Conv2d(student, width, 1)
        self.times = nn.Embedding(TIMES, width)
        self.predictor = _flat_predictor(width) if flat else _map_predictor(width)
        self.level = nn.Sequential(
            _flat_trunk(width) if flat else Bottleneck(width, 8),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2)),
        )
        self.exit = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))
        self.register_buffer("kept", signal_kept(), persistent=False)

    def forward(self, student: Tensor, teacher: Tensor, generator: torch.Generator) -> Denoised:
        """The student's tensor denoised by a model of the teacher's; noise is drawn from the generator."""
        random, device = generator_on(generator, student.device), student.device
        target, code_loss = teacher, None
        if self.encoder is not None and self.decoder is not None:
            code = self.encoder(teacher)
            target, code_loss = code.detach(), F.mse_loss(self.decoder(code), teacher)
        times = torch.randint(TRAIN_STEPS, (len(target),), generator=random, device=device)
        noise = torch.randn(target.shape, generator=random, device=device)
        kept = self.kept[times].view(-1, 1, 1, 1)
        noise_loss = F.mse_loss(self.predict(noised(target, noise, kept), times), noise)
        entered = self.entry(student)
        share = self.level(entered).softmax(dim=1)[:, :1, None, None]
        start = share * entered + (1 - share) * torch.randn(entered.shape, generator=random, device=device)
        return Denoised(self.exit(denoise(self.predict, start, self.kept, self.steps)), target, noise_loss, code_loss)

    def predict(self, values: Tensor, times: Tensor) -> Tensor:
        """The noise in values [B, C, H, W] at times [B]."""
        predicted: Tensor = self.predictor(values + self.times(times)[:, :, None, None])
        return predicted


class Bottleneck(nn.Module):
    """1x1 to width / reduction, 3x3, 1x1 back, each with BatchNorm, plus the input; no ReLU at the end."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        inside = max(width // reduction, LEAST_WIDTH)
        self.body = nn.Sequential(
            *(nn.Conv2d(width, inside, 1), nn.BatchNorm2d(inside), nn.ReLU()),
            *(nn.Conv2d(inside, inside, 3, padding=1), nn.BatchNorm2d(inside), nn.ReLU()),
            *(nn.Conv2d(inside, width, 1), nn.BatchNorm2d(width)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] of the same shape."""
        changed: Tensor = self.body(x)
        return x + changed


def signal_kept() -> Tensor:
    """abar [1000]: what remains of a value's square after t + 1 steps, for linearly growing betas."""
    betas = torch.linspace(FIRST_BETA, LAST_BETA, TRAIN_STEPS, dtype=torch.float64)
    return (1 - betas).cumprod(0).float()


def noised(values: Tensor, noise: Tensor, kept: Tensor) -> Tensor:
    """`sqrt(abar) values + sqrt(1 - abar) noise`."""
    return kept.sqrt() * values + (1 - kept).sqrt() * noise


def denoise(predict: Callable[[Tensor, Tensor], Tensor], values: Tensor, kept: Tensor, steps: int) -> Tensor:
    """Deterministic DDIM over the last half of a grid of 2 * steps times: 400, 300, 200, 100, 0 for 5; nothing is clipped.

    Args:
        predict: Noise in values [B, C, H, W] at times [B].
        values: At the first of the times.
        kept: abar, see `signal_kept`.
        steps: 1 to 500.
    """
    spacing = TRAIN_STEPS // (2 * steps)
    for time in range((steps - 1) * spacing, -1, -spacing):
        now = kept[time]
        noise = predict(values, torch.full((len(values),), time, device=values.device))
        clean = (values - (1 - now).sqrt() * noise) / now.sqrt()
        values = noised(clean, noise, kept[time - spacing]) if time else clean
    return values


def _map_predictor(width: int) -> nn.Module:
    return nn.Sequential(Bottleneck(width, 4), Bottleneck(width, 4), nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))


def _flat_predictor(width: int) -> nn.Module:
    wide = 4 * width
    return nn.Sequential(
        *(nn.Conv2d(width, wide, 1), nn.BatchNorm2d(wide), nn.ReLU()),
        *(nn.Conv2d(wide, width, 1), nn.BatchNorm2d(width)),
        *(nn.Conv2d(width, wide, 1), nn.BatchNorm2d(wide), nn.ReLU()),
        nn.Conv2d(wide, width, 1),
    )


def _flat_trunk(width: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(width, 2 * width, 1), nn.BatchNorm2d(2 * width), nn.ReLU()),
        *(nn.Conv2d(2 * width, width, 1), nn.BatchNorm2d(width)),
    )
