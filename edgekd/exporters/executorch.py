"""ExecuTorch (.pte): a PyTorch program lowered to XNNPACK, for CPUs of phones and boards.

Source: ExecuTorch 1.5 (PyTorch), its XNNPACK backend and that backend's quantizer, with torchao's PT2E: int8 activations with one
scale a tensor, int8 weights with one scale a channel; input and output stay float32. Needs: the tool executorch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from edgekd.artifact import Artifact
from edgekd.exporters import payload
from edgekd.exporters.base import Exporter, Work
from edgekd.params import ExportParams

MODEL, PLACEMENT, DELEGATE = "model.pte", "placement.json", "XNNPACK"


class ExecuTorch(Exporter):
    """One `model.pte`, batch 1, float32 in and out; `placement.json`: which operators XNNPACK has, and which it left to slower kernels."""

    VERSION = 2  # 2: placement.json beside it; the same model.pte
    files = (MODEL, *payload.FILES, PLACEMENT)
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
        own = {"precision": self.precision, "bias_correction": self.bias_correction}
        said = payload.convert("executorch", source, out / MODEL, work, own, "edgekd tools doctor executorch")
        left = ", ".join(f"{count} {name}" for name, count in said["left"].items()) or "none"
        rows = said["placement"]
        record = {"kind": "ExecuTorch's plan in the file", "delegates": said["delegates"], "layers": rows}
        (out / PLACEMENT).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        fallen = [f"{row['operator']} ({row['name']})" for row in rows if row["place"] != DELEGATE]
        taken = len(rows) - len(fallen)
        self.found = {"xnnpack_delegates": said["delegates"], "operators_outside": left}
        self.found |= {"xnnpack_coverage": taken / len(rows) if rows else 0.0, "n_xnnpack_operators": taken}
        self.found |= {"n_other_operators": len(fallen), "fell_back": ", ".join(fallen)}
        self.found["program_error_to_range"] = said["program_error_to_range"]
        share = f"{taken} of {len(rows)} operators in XNNPACK ({said['delegates']} pieces)"
        work.console.log(f"{work.where}: {share}; outside of it: {left}")
        payload.write_facts(out, facts, target, MODEL)
        payload.answer_golden(self.answer, source, out / MODEL, "executorch", work)
        return out / MODEL
