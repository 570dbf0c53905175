"""OpenVINO's intermediate representation: `model.xml` with the graph, `model.bin` with the weights, in float32 or as they were quantized.

Source: the ONNX reader and the writer of OpenVINO 2026.4 (Intel, Apache-2.0). Needs: the extra `openvino`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact
from edgekd.exporters import payload
from edgekd.exporters.base import Exporter, Work
from edgekd.params import ExportParams
from edgekd.tools.env import run_worker

MODEL, WEIGHTS = "model.xml", "model.bin"


class OpenVINO(Exporter):
    """IR of the graph or of a quantized ONNX file, dynamic batch.

    int8 is our own Q/DQ file, read as it is. NNCF, OpenVINO's own quantizer, was tried on resnet8 and resnet20 of CIFAR-10 with the
    same 512 images: 24.4 and 33.6 dB against the float network on training images at its best setting (its default: 23.6 and 19.5),
    where our file has 30.4 and 33.1, and they run equally fast (0.186 ms, resnet20).
    """

    VERSION = 1
    files = (MODEL, WEIGHTS, *payload.FILES)
    answers = "own"
    engine = "openvino"
    provider = "CPU"
    needs = ("openvino",)

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def export(self, source: Artifact, out: Path, *, target: ExportParams, work: Work | None = None) -> Path:
        """Write the two files, and what stands beside them."""
        assert work is not None  # its targets have a tool
        facts = payload.read_facts(source, target)
        job = {"model": source.path / "model.onnx", "out": out / MODEL}
        said = run_worker("openvino", job, out, where=work.where, console=work.console, threads=work.threads)
        self.found = {"weights_bytes": (out / WEIGHTS).stat().st_size, "converter": f"openvino {said['version']}"}
        payload.write_facts(out, facts, target, MODEL)
        payload.answer_golden(self.answer, source, out / MODEL, "openvino", work)
        return out / MODEL
