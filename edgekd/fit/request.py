"""What a fit is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from edgekd.fit.distributed import ALONE, Group
from edgekd.fit.state import Diagnostics
from edgekd.recipe import Fit
from edgekd.taps import TapPoint, Wanted


@dataclass(frozen=True)
class Side:
    """A network, what is read from it, and how its input is normalised (per channel, of images in [0, 1])."""

    network: nn.Module
    points: Mapping[str, TapPoint]
    wanted: Wanted
    mean: Sequence[float]
    std: Sequence[float]


@dataclass(frozen=True)
class Settings:
    """How a fit runs.

    Attributes:
        where: The step, for errors and progress.
        fit: The recipe's section.
        seed: The recipe's seed.
        classes: Number of classes.
        device: Resolved device.
        precision: Resolved precision.
        compile: Compile for the full batch size.
        threads: CPU threads, >= 1.
        resume: Folder of the checkpoints.
        group: The processes that train together; `fit.batch_size` is theirs together.
    """

    where: str
    fit: Fit
    seed: int
    classes: int
    device: str
    precision: str
    compile: bool
    threads: int
    resume: Path
    group: Group = ALONE


@dataclass(frozen=True)
class FitResult:
    """What a fit made.

    Attributes:
        network: The deployable network (averaged weights if asked for), in eval mode, on the CPU.
        history: One row an epoch: epoch (from 1), lr, loss, each loss term by name, train_seconds, images_per_second.
        diagnostics: What the method says of itself, one an epoch; empty when it says nothing.
        seconds: Training time of all epochs, earlier attempts included, validation excluded.
        images_per_second: Over all epochs, the first step of each attempt left out (it compiles).
        compiled: Whether full batches ran compiled.
        shared: `processes` and `batchnorm` (over `process` or `batch`) of a fit in several processes; empty for one.
        method_parameters: Trained parameters of the method's own modules.
        kept_epoch: The epoch, counted from 1, whose weights these are; None: the last.
    """

    network: nn.Module
    history: list[dict[str, Any]]
    diagnostics: list[Diagnostics]
    seconds: float
    images_per_second: float
    compiled: bool
    shared: Mapping[str, Any] = field(default_factory=dict)
    method_parameters: int = 0
    kept_epoch: int | None = None

    def metrics(self, compile_reason: str) -> dict[str, Any]:
        """The figures of the fit that its artifact's manifest carries."""
        return {
            "epochs": len(self.history),
            "train_seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "compiled": self.compiled,
            "compile_reason": compile_reason,
            **self.shared,
            **({} if self.kept_epoch is None else {"kept_epoch": self.kept_epoch}),
        }


Validate = Callable[[nn.Module], Mapping[str, float]]
