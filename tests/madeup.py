"""Made-up maps of two networks by tap name, and a method set up for them: no network is run."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from edgekd.distillers.base import Context, Distiller, Outputs, Progress
from edgekd.taps import Wanted, reduce

CLASSES = 10
Shapes = Mapping[str, tuple[int, ...]]  # of one image


def stages(*shapes: tuple[int, int, int], preact: bool = False) -> dict[str, tuple[int, ...]]:
    """stage.1 ..., the stem before them, preact.1 ... and the pooled vector."""
    return {
        "stem": shapes[0],
        **{f"stage.{n}": shape for n, shape in enumerate(shapes, 1)},
        **({f"preact.{n}": shape for n, shape in enumerate(shapes, 1)} if preact else {}),
        "pooled": shapes[-1][:1],
    }


class Pair(NamedTuple):
    """A method, ready, with the outputs it reads."""

    method: Distiller
    student: Outputs
    teacher: Outputs

    def __call__(self, epoch: int = 0) -> dict[str, torch.Tensor]:
        target = torch.arange(len(self.student.logits)) % CLASSES
        return self.method(self.student, self.teacher, target, Progress(epoch, 0, 0.0, torch.Generator()))


def ready(
    method: Distiller,
    student: Shapes,
    teacher: Shapes,
    *,
    network: nn.Module | None = None,
    batch: int = 3,
    seed: int = 0,
) -> Pair:
    """The method after `wanted` and `setup`, training; its BatchNorms are made uneven."""
    random = torch.Generator().manual_seed(seed)
    wanted = method.wanted(list(student), list(teacher))
    sides = [outputs(shapes, taps, batch, random) for shapes, taps in zip((student, teacher), wanted, strict=True)]
    sides[0].logits.requires_grad_()
    for tap in sides[0].taps.values():
        tap.requires_grad_()
    method.setup(Context(nn.Module(), network, *sides, torch.zeros(1), CLASSES, random))
    with torch.no_grad():
        for module in method.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=random)
                module.bias.uniform_(-0.5, 0.5, generator=random)
    return Pair(method.train(), *sides)


def outputs(shapes: Shapes, wanted: Wanted, batch: int, random: torch.Generator) -> Outputs:
    """Random logits, and the wanted reductions of random values of both signs."""
    values = {tap: torch.randn(batch, *shape, generator=random) for tap, shape in shapes.items()}
    taps = {f"{tap}:{reduction}": reduce(values[tap], reduction).clone() for tap, reduction in wanted}
    return Outputs(3 * torch.randn(batch, CLASSES, generator=random), taps)
