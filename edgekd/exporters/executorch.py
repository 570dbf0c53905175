"""ExecuTorch (.pte): a PyTorch program lowered to XNNPACK, for CPUs of phones and boards.

Source: ExecuTorch 1.5 (PyTorch), its XNNPACK backend and that backend's quantizer, with torchao's PT2E: int8 activations with one
scale a tensor, int8 weights with one scale a channel; input and output stay float32. Needs: the tool executorch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgekd.artifact import Artifact
from edgekd.errors import StageFailed
from edgekd.exporters import payload
from edgekd.exporters.base import Exporter, Work
from edgekd.params import ExportParams
from edgekd.tools.env import run_worker

MODEL = "model.pte"


class ExecuTorch(Exporter):
    """One `model.pte`, batch 1, float32 in and out."""

    VERSION = 1
    files = (MODEL, *payload.FILES)
    answers = "own"
    engine = "executorch"
    needs = ("executorch",)

    def __init__(self, precision: Literal["fp32", "int8"] = "int8", bias_correction: bool = True) -> None:
        self.precision, self.bias_correction = precision, bias_correction
        self.found: dict[str, Any] = {}

    def export(self, source: Artifact, out: Path, *, target: ExportParams, work: Work | None = None) -> Path:
        """Let the tool quantize and lower; operators that XNNPACK does not take are named."""
        assert work is not None  # its target names a tool
        facts = payload.read_facts(source, target, scheme="none")
        job = {
            "program": source.path / "program.pt2",
            "golden": source.path / "golden.npz",
            "calibration": source.path / "calibration.npz",
            "model": out / MODEL,
            "mean": list(work.norm[0]),
            "std": list(work.norm[1]),
            "precision": self.precision,
            "bias_correction": self.bias_correction,
        }
        said = run_worker("executorch", job, out, where=work.where, console=work.console, threads=work.threads)
        if "refused" in said:
            hint = "edgekd tools doctor executorch"
            raise StageFailed(work.where, str(said["refused"]), "the program's golden answers", hint)
        left = ", ".join(f"{count} {name}" for name, count in said["left"].items()) or "none"
        self.found = {"xnnpack_delegates": said["delegates"], "operators_outside": left}
        self.found["program_error_to_range"] = said["program_error_to_range"]
        work.console.log(f"{work.where}: XNNPACK takes it in {said['delegates']} pieces; outside of them: {left}")
        payload.write_facts(out, facts, target, MODEL)
        images = payload.golden_images(source)
        payload.write_golden(out, images, self.answer(out / MODEL, images, np.arange(len(images)), "executorch", work))
        return out / MODEL
