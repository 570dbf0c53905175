"""A made-up data artifact, and a context for the stages that train."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd.artifact import Artifact
from edgekd.console import Console
from edgekd.stages import evaluate
from edgekd.stages.base import RunContext

CLASSES = ("dark", "dim", "bright")


@pytest.fixture
def training_context(tmp_path: Path) -> RunContext:
    resume = tmp_path / "resume"
    resume.mkdir()
    return RunContext((tmp_path,), None, resume, Console(quiet=True), threads=1)


@pytest.fixture
def brightness(tmp_path: Path) -> Artifact:
    """Three classes of 16 x 16 images that differ in brightness: 60 for training, 30 for testing."""
    folder = tmp_path / "data" / "00000000-00000000"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split, n in (("train", 60), ("test", 30)):
        labels = np.arange(n, dtype=np.int64) % len(CLASSES)
        images = generator.integers(0, 60, (n, 16, 16, 3)) + 80 * labels.reshape(-1, 1, 1, 1)
        np.save(folder / f"images_{split}.npy", images.astype(np.uint8))
        np.save(folder / f"labels_{split}.npy", labels)
    np.save(folder / "twins_train.npy", np.empty(0, dtype=np.int64))
    facts = {
        "name": "brightness",
        "classes": list(CLASSES),
        "channels": 3,
        "height": 16,
        "width": 16,
        "normalize": {"mean": [0.4, 0.4, 0.4], "std": [0.25, 0.25, 0.25]},
        "augment": ["crop2", "flip"],
        "splits": {"train": 60, "test": 30},
    }
    (folder / "data.json").write_text(json.dumps(facts), encoding="utf-8")
    return made(folder, "data", {"classes": len(CLASSES)})


def made(folder: Path, step: str, metrics: dict[str, Any]) -> Artifact:
    """A folder as an artifact, without sealing it."""
    facts = {"step": step, "key": "0" * 64, "digest": "0" * 64, "files": {}, "metrics": metrics, "inputs": {}}
    return Artifact(folder, facts)


@pytest.fixture
def threads_of_answers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """torch's threads at each evaluation of a whole role from here on."""
    seen: list[int] = []
    whole = evaluate.answers

    def spy(*args: Any) -> Any:
        seen.append(torch.get_num_threads())
        return whole(*args)

    monkeypatch.setattr(evaluate, "answers", spy)
    return seen


@pytest.fixture
def as_artifact() -> Callable[[Path, str, dict[str, Any]], Artifact]:
    return made
