"""Qualcomm Hexagon: a Q/DQ file of batch 1, and the context that its compiler makes of it for one chip.

On Snapdragon: written, not run on hardware. Source: onnxruntime-qnn 2.7 (Qualcomm; MIT around the QNN libraries).
Needs: the extra `qnn`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgekd import onnxfile
from edgekd.artifact import Artifact, sha256_file
from edgekd.errors import CheckFailed
from edgekd.exporters import payload
from edgekd.exporters.base import Exporter, Work
from edgekd.params import ExportParams
from edgekd.tools.env import run_worker

MODEL, CONTEXT = "model.onnx", "model.context.onnx"
PART = 500  # images answered between two points from which a killed run goes on: about half a minute
EMULATOR = "Qualcomm's emulator of the Hexagon processor, with the compiled context; whether the chip gives the same answers only a run on it tells"
Images: TypeAlias = npt.NDArray[np.uint8]
Rows: TypeAlias = npt.NDArray[np.int64]
Logits: TypeAlias = npt.NDArray[np.float32]


class QNN(Exporter):
    """`model.onnx` runs on every Hexagon processor with int8 and is compiled there; `model.context.onnx` is compiled for one chip.

    Both are checked on x86: the compiler must put every operator on the processor (fallback to the CPU is disabled), and the
    provider's emulator answers with the compiled context. Its answers count, its times do not.

    Args:
        soc_model: Qualcomm's number of the chip; its `htp_arch` goes with it. 57: SM8650 (Snapdragon 8 Gen 3).
        htp_arch: Version of the Hexagon processor, as 75 of v75.
        test_images: How many test images the emulator answers, spread evenly; 0: all. An image takes 20 to 120 ms.
    """

    VERSION = 1
    files = (MODEL, CONTEXT, *payload.FILES)
    answers = "own"
    engine = "qnn"
    provider = "QNNExecutionProvider"
    needs = ("qnn",)

    def __init__(self, soc_model: int = 57, htp_arch: int = 75, test_images: int = 0) -> None:
        self.chip = {"soc_model": str(soc_model), "htp_arch": str(htp_arch)}
        self.most_test = test_images or None
        self.found: dict[str, Any] = {}

    def export(self, source: Artifact, out: Path, *, target: ExportParams, work: Work | None = None) -> Path:
        """Write the file of batch 1 and its context.

        Raises:
            CheckFailed: An operator does not run on the processor; it is named.
        """
        assert work is not None  # its targets have a tool
        facts = payload.read_facts(source, target)
        model = onnxfile.load(source.path / MODEL)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1
        del model.graph.value_info[:]  # shapes of a free batch
        onnxfile.set_metadata(model, {**onnxfile.metadata(model), "target": target.target})
        onnxfile.save(model, out / MODEL)
        self._compile(out, work)
        payload.write_facts(out, facts, target, CONTEXT, chip=self.chip)
        payload.answer_golden(super().answer, source, out / CONTEXT, "qnn", work)
        return out / CONTEXT

    def answer(self, path: Path, images: Images, rows: Rows, tool: str, work: Work) -> Logits:
        """Logits [n, classes] by the emulator, part by part: a run that is killed goes on behind its last part."""
        kept = work.resume / f"answers-{sha256_file(path)[:16]}"
        kept.mkdir(parents=True, exist_ok=True)
        whole = Path(getattr(images, "filename", "images")).stem
        parts = []
        with work.console.task(f"{work.where}: emulated", len(rows), "img") as task:
            for start in range(0, len(rows), PART):
                chosen = rows[start : start + PART]
                stored = kept / f"{whole}-{chosen[0]}-{chosen[-1]}-{len(chosen)}.npy"
                if not stored.is_file():
                    logits = super().answer(path, images, chosen, tool, work)
                    scratch = stored.with_suffix(".part")
                    with scratch.open("wb") as file:
                        np.save(file, logits)
                    scratch.rename(stored)
                parts.append(np.asarray(np.load(stored, allow_pickle=False), dtype=np.float32))
                task.advance(len(chosen))
        return np.concatenate(parts)

    def _compile(self, out: Path, work: Work) -> None:
        """The context, in a process of its own: only the first of a process has the same bytes each time."""
        job = {"model": out / MODEL, "out": out / CONTEXT, "runner": work.runner, "options": self.chip}
        said = run_worker("qnn", job, out, where=work.where, console=work.console, threads=work.threads)
        fallen = list(said["elsewhere"])
        if fallen:
            found = f"{len(fallen)} operators would run on the CPU: " + ", ".join(fallen[:8])
            hint = "another network; or a quantizer that rounds around every operator (quantize.use: ptq)"
            raise CheckFailed(work.where, found, "every operator on the Hexagon processor", hint)
        self.found = {"npu_coverage": 1.0, "n_npu_operators": said["operators"], "n_cpu_operators": 0}
        self.found |= {"compiler": f"onnxruntime-qnn {said['version']}", **self.chip}
        self.found["accuracy_note"] = EMULATOR
        self.found["portable_bytes"] = (out / MODEL).stat().st_size
        chip = f"soc_model {self.chip['soc_model']}, HTP v{self.chip['htp_arch']}"
        work.console.log(
            f"{work.where}: compiled for {chip}: all {said['operators']} operators on the Hexagon processor; "
            "answered by its emulator, whose speed says nothing"
        )
