"""What an exporter is: a graph, quantized or program artifact in, the files of one target out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgekd.artifact import Artifact
from edgekd.console import Console
from edgekd.data.roles import RoleArrays
from edgekd.params import ExportParams
from edgekd.tools.env import run_worker


@dataclass(frozen=True)
class Work:
    """What the exporter of a tool chain works with besides its source.

    Attributes:
        where: The step, for errors.
        scratch: A folder that is gone afterwards.
        runner: runner.pyz, whose engines answer images in the tool's own Python.
        arrays: The images by role.
        rows: [n] int64 of the train split: what to calibrate with.
        norm: (mean, std) a channel of the network's input.
        resume: A folder that outlives a kill, emptied once the step is sealed.
    """

    console: Console
    threads: int
    where: str
    scratch: Path
    runner: Path
    arrays: RoleArrays
    rows: npt.NDArray[np.int64]
    norm: tuple[Sequence[float], Sequence[float]]
    resume: Path


class Exporter(ABC):
    """Writes one file format. One file in this folder = one exporter; its constructor's arguments are a target's `args`.

    Attributes:
        VERSION: Raised when the same inputs give other files.
        files: Names of the files that it writes and that are the payload of the step. Of a target with a tool the stage adds
            `predictions.npz`.
        answers: `own`: what it made is evaluated by `answer` on val and test; `source`: its answers are its source's, for the
            numbers in the file are the same; empty: it is not evaluated here.
        engine: The runner's engine that answers for its files.
        provider: What that engine is asked to run on.
        needs: Tools without which it can make nothing; each must be installed.
        chip_named_by: The argument that says for which one chip its files are; empty: they run wherever their runtime does.
        most_test: How many test images it answers, spread evenly, where all would take too long; None: all.
        found: Figures of the last export, by metric name.
    """

    VERSION: ClassVar[int]
    files: ClassVar[tuple[str, ...]]
    answers: ClassVar[str] = ""
    engine: ClassVar[str] = ""
    provider: ClassVar[str] = "cpu"
    needs: ClassVar[tuple[str, ...]] = ()
    chip_named_by: ClassVar[str] = ""
    most_test: int | None = None
    found: dict[str, Any]

    @abstractmethod
    def export(self, source: Artifact, out: Path, *, target: ExportParams, work: Work | None = None) -> Path:
        """Write the files of a target.

        Args:
            source: The artifact that the target is made from.
            out: The folder to write into.
            target: What is asked for.
            work: What a tool chain needs; None for a target without `tool`.

        Returns:
            The network's own file in `out`.

        Raises:
            StageFailed: The format cannot hold the network.
            IntegrityError: The source is damaged.
        """

    def answer(
        self, path: Path, images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], tool: str, work: Work
    ) -> npt.NDArray[np.float32]:
        """Logits [n, classes] of a file for the rows of images [N, H, W, C], by `engine` in the tool's Python.

        Raises:
            MissingTool: The tool is broken.
            StageFailed: The engine refuses the file, or dies.
        """
        stored = getattr(images, "filename", None)
        if stored is None:
            stored = work.scratch / "images.npy"
            np.save(stored, images)
        np.save(work.scratch / "rows.npy", rows)
        job = {
            "runner": work.runner,
            "engine": self.engine,
            "provider": self.provider,
            "model": path,
            "images": Path(stored),
            "rows": work.scratch / "rows.npy",
            "logits": work.scratch / "logits.npy",
            "mean": list(work.norm[0]),
            "std": list(work.norm[1]),
            "threads": work.threads,
        }
        said = run_worker(
            tool, job, path.parent, worker="answer", where=work.where, console=work.console, threads=work.threads
        )
        self.found |= {"runtime": self.engine, "runtime_version": said["version"]}
        return np.asarray(np.load(work.scratch / "logits.npy", allow_pickle=False), dtype=np.float32)
