"""LiteRT (.tflite): a PyTorch program converted by litert-torch; int8 by ai-edge-quantizer with our calibration images.

Source: LiteRT 8-bit quantization specification (Google): int8 activations with one scale and zero point a tensor, int8 weights
with one scale a channel, int32 biases. How its ranges are found, and what was gained: `edgekd/tools/workers/litert.py`.
Needs: the tool litert.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from edgekd.artifact import Artifact
from edgekd.exporters import payload
from edgekd.exporters.base import Exporter, Work
from edgekd.params import ExportParams

MODEL = "model.tflite"
REFUSED = "edgekd tools doctor litert; a program is read by the torch of the version that wrote it, or by a near one"


class LiteRT(Exporter):
    """One `model.tflite`, batch 1, channels last, integers in and out where it is int8."""

    VERSION = 1
    files = (MODEL, *payload.FILES)
    answers = "own"
    engine = "litert"
    needs = ("litert",)

    def __init__(
        self,
        precision: Literal["fp32", "int8"] = "int8",
        calibrate: Literal["mse", "minmax", "moving"] = "mse",
        bias_correction: bool = True,
    ) -> None:
        self.precision, self.calibrate, self.bias_correction = precision, calibrate, bias_correction
        self.found: dict[str, Any] = {}

    def export(self, source: Artifact, out: Path, *, target: ExportParams, work: Work | None = None) -> Path:
        """Let the tool convert, and quantize; it must answer the golden images as the program did first."""
        assert work is not None  # its target names a tool
        facts = payload.read_facts(source, target, scheme="none")
        own = {"precision": self.precision, "calibrate": self.calibrate, "bias_correction": self.bias_correction}
        said = payload.convert("litert", source, out / MODEL, work, own, REFUSED)
        operators = ", ".join(f"{count} {name}" for name, count in said["operators"].items())
        self.found = {"operators": operators, "program_error_to_range": said["program_error_to_range"]}
        payload.write_facts(out, facts, target, MODEL)
        payload.answer_golden(self.answer, source, out / MODEL, "litert", work)
        return out / MODEL
