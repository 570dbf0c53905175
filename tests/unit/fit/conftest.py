"""Small fits on made-up images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from method_arguments import ARGUMENTS

from edgekd import models, registry
from edgekd.console import Console
from edgekd.fit.batches import TrainingData
from edgekd.fit.loop import fit
from edgekd.fit.request import FitResult, Settings, Side, Validate
from edgekd.recipe import Fit

CLASSES = 4
NORMAL = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture
def data() -> TrainingData:
    """70 images of 16 x 16 in four classes that differ in brightness: 2 batches of 32 and one of 6."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(70) % CLASSES
    images = torch.randint(0, 64, (70, 16, 16, 3), generator=generator) + 64 * labels.view(-1, 1, 1, 1)
    return TrainingData(images.to(torch.uint8), labels, ("crop2", "flip"))


def side(seed: int, wanted: Any = (), model: str = "resnet8") -> Side:
    network = models.build(model, classes=CLASSES, generator=torch.Generator().manual_seed(seed))
    return Side(network, models.taps(model, network), wanted, *NORMAL)


Fitted = Callable[..., FitResult]


@pytest.fixture
def make_side() -> Callable[..., Side]:
    """A resnet8 with weights of its own seed, as one side of a fit."""
    return side


@pytest.fixture
def fitted(data: TrainingData, tmp_path: Path) -> Fitted:
    """A fit of resnet8 under a method of the registry."""

    def run(
        use: str = "ce",
        args: dict[str, Any] | None = None,
        *,
        folder: Path | None = None,
        compiled: bool = False,
        console: Console | None = None,
        validate: Validate | None = None,
        distiller: Any = None,
        teacher: Side | None = None,
        student: Side | None = None,
        given: TrainingData | None = None,
        **settings: Any,
    ) -> FitResult:
        distiller = distiller or registry.construct("distillers", use, args or ARGUMENTS.get(use, {}))
        student, teacher = student or side(1), teacher or side(2)
        wanted, seen = distiller.wanted(list(student.points), list(teacher.points))
        student = Side(student.network, student.points, wanted, *NORMAL)
        shown = Side(teacher.network, teacher.points, seen, *NORMAL) if distiller.needs_teacher else None
        chosen = Fit(**({"epochs": 2, "batch_size": 32, "compile": False} | settings))
        precision = "fp32" if chosen.precision == "auto" else chosen.precision
        how = Settings("student", chosen, 0, CLASSES, "cpu", precision, compiled, 1, folder or tmp_path / "resume")
        return fit(student, shown, distiller, given or data, how, console or Console(quiet=True), validate)

    return run
