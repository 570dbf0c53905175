"""What exporters of tool chains share: a program's conversion; labels, facts and a golden batch beside the network that is made."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgekd.artifact import Artifact
from edgekd.errors import RecipeError, StageFailed
from edgekd.exporters.base import Work
from edgekd.params import ExportParams
from edgekd.tools.env import run_worker

FACTS, LABELS, GOLDEN = "model.json", "labels.txt", "golden.npz"
FILES = (FACTS, LABELS, GOLDEN)
Images: TypeAlias = npt.NDArray[np.uint8]
Answer: TypeAlias = Callable[[Path, Images, npt.NDArray[np.int64], str, Work], npt.NDArray[np.float32]]


def convert(tool: str, source: Artifact, model: Path, work: Work, own: Mapping[str, Any], hint: str) -> dict[str, Any]:
    """Let a tool make a file of a program, with an exporter's own settings; gives what its worker says.

    Raises:
        StageFailed: In the tool's torch the program does not give its golden answers.
    """
    job = {
        "program": source.path / "program.pt2",
        "golden": source.path / GOLDEN,
        "calibration": source.path / "calibration.npz",
        "model": model,
        "mean": list(work.norm[0]),
        "std": list(work.norm[1]),
        **own,
    }
    said = run_worker(tool, job, model.parent, where=work.where, console=work.console, threads=work.threads)
    if "refused" in said:
        raise StageFailed(work.where, str(said["refused"]), "the program's golden answers", hint)
    return said


def read_facts(source: Artifact, target: ExportParams, scheme: str | None = None) -> dict[str, Any]:
    """`model.json` of a source.

    Args:
        source: A graph or quantized artifact.
        target: What is to be made of it.
        scheme: What the source must be of; None: the target's own.

    Raises:
        RecipeError: It is of another scheme.
    """
    facts: dict[str, Any] = json.loads((source.path / FACTS).read_text(encoding="utf-8"))
    wanted, found = scheme or target.scheme, facts.get("scheme", "none")
    if found != wanted:
        raise RecipeError(f"export/{target.target}", f"the source has scheme {found!r}", f"scheme {wanted!r}")
    return facts


def write_facts(out: Path, facts: dict[str, Any], target: ExportParams, file: str, **more: Any) -> None:
    """`model.json` and `labels.txt`; `file`: which of the target's files an engine loads."""
    own = {"target": target.target, "family": target.family, "scheme": target.scheme, "file": file}
    text = json.dumps({**facts, **own, **more}, indent=1, sort_keys=True)
    (out / FACTS).write_text(text + "\n", encoding="utf-8")
    lines = (" ".join(label.split()) for label in facts["classes"])  # class i is line i
    (out / LABELS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def golden_images(source: Artifact) -> Images:
    """The images [g, H, W, C] of a source's golden batch."""
    with np.load(source.path / GOLDEN, allow_pickle=False) as file:
        return np.asarray(file["images"])


def answer_golden(answer: Answer, source: Artifact, model: Path, tool: str, work: Work) -> None:
    """A golden batch with what a file itself answers to the source's images; `answer`: the exporter's."""
    images = golden_images(source)
    write_golden(model.parent, images, answer(model, images, np.arange(len(images)), tool, work))


def write_golden(out: Path, images: Images, logits: npt.NDArray[np.float32]) -> None:
    """A golden batch with the target's own logits: its engine must give these, whatever the source gave."""
    np.savez(out / GOLDEN, images=images, logits=logits)
