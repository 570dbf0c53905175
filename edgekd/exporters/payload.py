"""What every target of a tool chain has beside its network: labels, facts, and a golden batch that it answers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.artifact import Artifact
from edgekd.errors import RecipeError
from edgekd.params import ExportParams

FACTS, LABELS, GOLDEN = "model.json", "labels.txt", "golden.npz"
FILES = (FACTS, LABELS, GOLDEN)


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


def golden_images(source: Artifact) -> npt.NDArray[np.uint8]:
    """The images [g, H, W, C] of a source's golden batch."""
    with np.load(source.path / GOLDEN, allow_pickle=False) as file:
        return np.asarray(file["images"])


def write_golden(out: Path, images: npt.NDArray[np.uint8], logits: npt.NDArray[np.float32]) -> None:
    """A golden batch with the target's own logits: its engine must give these, whatever the source gave."""
    np.savez(out / GOLDEN, images=images, logits=logits)
