"""Made-up outputs of two networks, so that the methods are tested without running any."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from edgekd.distillers.base import Context, Distiller, Outputs, Progress

Shapes = list[tuple[int, int]]  # (channels, side) of each tap

STUDENT: Shapes = [(4, 8), (4, 8), (6, 4)]
TEACHER: Shapes = [(5, 8), (5, 8), (5, 8), (7, 4), (7, 4), (7, 2)]


@dataclass
class World:
    """Outputs of a student and a teacher, and everything else that a distiller is called with."""

    student: Outputs
    teacher: Outputs
    target: torch.Tensor
    seed: int = 0
    progress: Progress = field(default_factory=lambda: Progress(0, 0, 0.0, torch.Generator()))

    def ready(self, method: Distiller) -> Distiller:
        wanted = [list(dict.fromkeys(key.split(":")[0] for key in side.taps)) for side in (self.student, self.teacher)]
        method.wanted(*wanted)
        generator = torch.Generator().manual_seed(self.seed)
        empty = nn.Module()
        method.setup(Context(empty, empty, self.student, self.teacher, self.target, 10, generator))
        return method

    def __call__(self, method: Distiller) -> dict[str, torch.Tensor]:
        return method(self.student, self.teacher, self.target, self.progress)


def outputs(shapes: Shapes, batch: int, seed: int, *, grad: bool = True) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    taps = {}
    for n, (channels, side) in enumerate(shapes, 1):
        scale = 10.0 ** (n % 3 - 1)  # blocks differ by orders of magnitude in real networks
        taps[f"block.{n}:energy"] = scale * torch.rand(batch, side, side, generator=generator)
        taps[f"block.{n}:pooled"] = scale * torch.randn(batch, channels, generator=generator)
    logits = torch.randn(batch, 10, generator=generator)
    for tensor in (logits, *taps.values()):
        tensor.requires_grad_(grad)
    return Outputs(logits, taps, torch.arange(batch))


@pytest.fixture
def world() -> Callable[..., World]:
    def make(student: Shapes = STUDENT, teacher: Shapes = TEACHER, *, batch: int = 6, seed: int = 0) -> World:
        generator = torch.Generator().manual_seed(seed)
        target = torch.randint(10, (batch,), generator=generator)
        return World(outputs(student, batch, seed + 1), outputs(teacher, batch, seed + 2), target, seed)

    return make
