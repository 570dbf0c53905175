"""Made-up outputs of two networks, so that the methods are tested without running any."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from networks import settled
from torch import nn

from edgekd import models
from edgekd.distillers.base import Context, Distiller, Outputs, Progress
from edgekd.taps import TapPoint, tapped

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


@dataclass
class Pair:
    """Two small networks, what they answer to a few images, and everything else that a distiller is called with.

    Attributes:
        student: resnet8.
        teacher: resnet8x4, in eval mode.
        sides: Tap points of both.
        images: [B, 3, 16, 16].
        target: [B] labels.
    """

    student: nn.Module
    teacher: nn.Module
    sides: tuple[dict[str, TapPoint], dict[str, TapPoint]]
    images: torch.Tensor
    target: torch.Tensor
    seen: tuple[Outputs, Outputs] | None = None

    def ready(self, method: Distiller, seed: int = 0) -> Distiller:
        """Set the method up for the pair."""
        wanted = method.wanted(*(list(side) for side in self.sides))
        views = self.images if method.views == 1 else torch.cat([self.images, self.images.flip(3) * 0.7])
        index = torch.arange(len(self.images)).repeat(method.views)
        self.seen = tuple(
            leaves(network, side, keys, views, index)
            for network, side, keys in zip((self.student, self.teacher), self.sides, wanted, strict=True)
        )
        labels = torch.cat([self.target, torch.arange(20) % 10])
        method.setup(Context(self.student, self.teacher, *self.seen, labels, 10, torch.Generator().manual_seed(seed)))
        return method

    def __call__(self, method: Distiller) -> dict[str, torch.Tensor]:
        return method(*self.seen, self.target, Progress(0, 0, 0.0, torch.Generator().manual_seed(1)))


def leaves(network: nn.Module, points, wanted, images: torch.Tensor, index: torch.Tensor) -> Outputs:
    """What the network answers, cut off from it, so that gradients stop at it."""
    with tapped(network, points, wanted, (0.5,) * 3, (0.25,) * 3) as watched, torch.no_grad():
        logits, taps = watched(images)
    own = {key: tap.clone().requires_grad_() for key, tap in taps.items()}
    return Outputs(logits.clone().requires_grad_(), own, index)


@pytest.fixture
def pair() -> Callable[..., Pair]:
    """Makes a `Pair`; `alike`: both are one network."""

    def make(batch: int = 6, *, alike: bool = False) -> Pair:
        random = torch.Generator().manual_seed(5)
        names = ("resnet8", "resnet8" if alike else "resnet8x4")
        images = torch.rand(batch, 3, 16, 16, generator=random)
        made = [models.build(name, classes=10, size=(16, 16), generator=random) for name in names]
        made = [settled(network, images, random) for network in made]  # else no two images differ
        made = [made[0], made[0]] if alike else made
        sides = tuple(models.taps(name, network) for name, network in zip(names, made, strict=True))
        return Pair(*made, sides, images, torch.randint(10, (batch,), generator=random))

    return make
