"""A `torch.export` program as it is, for PyTorch itself: what every other file is to be compared with.

Source: torch.export (PyTorch). Needs: nothing but the program.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact
from edgekd.exporters import payload
from edgekd.exporters.base import Exporter, Work
from edgekd.params import ExportParams

MODEL = "model.pt2"


class Program(Exporter):
    """One `model.pt2`, batch 1, read by the torch of the version that wrote it, or by a near one."""

    VERSION = 1
    files = (MODEL, *payload.FILES)

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def export(self, source: Artifact, out: Path, *, target: ExportParams, work: Work | None = None) -> Path:
        """Copy the program and its golden batch."""
        facts = payload.read_facts(source, target)
        shutil.copyfile(source.path / "program.pt2", out / MODEL)
        shutil.copyfile(source.path / payload.GOLDEN, out / payload.GOLDEN)
        payload.write_facts(out, facts, target, MODEL)
        return out / MODEL
