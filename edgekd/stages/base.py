"""What every stage is given and gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgekd.artifact import Artifact
from edgekd.console import Console
from edgekd.fit.distributed import ALONE, Group


@dataclass(frozen=True)
class RunContext:
    """Where and how a stage runs: nothing in here may change a result that its step's key does not name.

    Attributes:
        data_roots: Folders in which data sets and checkpoints are looked up, in order.
        recipe_dir: Folder of the recipe file, when there is one.
        resume: Folder that survives a kill (checkpoints of unfinished work); emptied once the step is sealed.
        console: Progress and log.
        device: Resolved device: `cpu`, `cuda` or `mps`.
        precision: Resolved precision: `fp32`, `bf16` or `fp16`.
        compile: False forbids torch.compile in this run; True leaves it to the recipe's `fit.compile`.
        threads: Number of CPU threads, >= 1.
        group: The processes that train together.
        classes: Number of classes of the data, when already known at check time.
        channels: Image channels, when already known at check time.
        size: (H, W) in pixels, when already known at check time.
        train_images: Number of training images, when already known at check time.
        val_images: Number of validation images, when already known at check time.
        teacher_model: Name of the teacher's network, when already known at check time.
    """

    data_roots: tuple[Path, ...]
    recipe_dir: Path | None
    resume: Path
    console: Console
    device: str = "cpu"
    precision: str = "fp32"
    compile: bool = True
    threads: int = 1
    group: Group = ALONE
    classes: int | None = None
    channels: int | None = None
    size: tuple[int, int] | None = None
    train_images: int | None = None
    val_images: int | None = None
    teacher_model: str | None = None


@dataclass(frozen=True)
class StageResult:
    """What a stage made.

    Attributes:
        metrics: Flat figures with their unit in the name.
        payload: File names in `out` whose bytes are deterministic: they make the digest. Other files there are logs, timings, samples.
    """

    metrics: dict[str, Any]
    payload: tuple[str, ...]


class Stage(Protocol):
    """The form of every module in `edgekd.stages`."""

    VERSION: int

    def check(self, params: Any, context: RunContext) -> None:
        """Raise everything that can be known to fail before work."""

    def run(self, params: Any, inputs: Mapping[str, Artifact], out: Path, context: RunContext) -> StageResult:
        """Do the work, write into `out`."""
