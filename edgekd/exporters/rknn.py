"""Rockchip NPUs: .rknn in int8 for one chip, calibrated by Rockchip's toolkit on our images and answered by its simulator.

Source: rknn-toolkit2 2.5.0 (Rockchip; proprietary). Needs: `edgekd tools install rknn`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from edgekd import onnxfile
from edgekd.artifact import Artifact
from edgekd.data import normalize
from edgekd.exporters import payload
from edgekd.exporters.base import Exporter, Work
from edgekd.exporters.pooled import pooled
from edgekd.params import ExportParams
from edgekd.tools.env import run_worker

MODEL, PLACEMENT = "model.rknn", "placement.json"
GAP = (
    "the toolkit's simulator on a PC: it follows the arithmetic of its own conversion, not the chip's; the board may differ by single "
    "steps of a scale where the chip rounds otherwise, and only a run on the board tells"
)
Images: TypeAlias = npt.NDArray[np.uint8]
Rows: TypeAlias = npt.NDArray[np.int64]
Logits: TypeAlias = npt.NDArray[np.float32]


class RKNN(Exporter):
    """`model.rknn`: activations int8, one scale a tensor; weights int8, one scale a channel; batch 1.

    The compiler writes addresses of its own memory into the file (about 1 KB of it), so no two files are equal: it is sealed, but the
    digest is of the answers. They are the simulator's; `accuracy_note` says what that means.

    Args:
        platform: The chip.
        algorithm: How ranges are chosen. `normal`: the whole range, 2 s; `mmse`: least squared error, a minute and more (1.5 dB more on
            resnet8, 0.3 on resnet20); `kl_divergence`.
    """

    VERSION = 1
    files = (*payload.FILES, PLACEMENT)
    answers = "own"
    engine = "rknn"
    provider = "NPU"
    needs = ("rknn",)
    chip_named_by = "platform"

    def __init__(
        self,
        platform: Literal["rk3588", "rk3576", "rk3566", "rk3568", "rk3562"],
        algorithm: Literal["normal", "mmse", "kl_divergence"] = "normal",
    ) -> None:
        self.platform, self.algorithm = platform, algorithm
        self.found: dict[str, Any] = {}
        self._told: dict[tuple[str, bytes], Logits] = {}

    def export(self, source: Artifact, out: Path, *, target: ExportParams, work: Work | None = None) -> Path:
        """Compile, and answer golden, val and test at once: the simulator lives in the process that compiled."""
        assert work is not None  # its targets have a tool
        facts, golden = payload.read_facts(source, target, scheme="none"), payload.golden_images(source)
        train = work.arrays.images("train").images
        shown = normalize.apply(train[work.rows], tuple(work.norm[0]), tuple(work.norm[1]))
        np.save(work.scratch / "calibration.npy", shown)
        asked: list[tuple[str, Images, Rows]] = [("golden", golden, np.arange(len(golden)))]
        asked += [(role, work.arrays.images(role).images, work.arrays.rows[role]) for role in ("val", "test")]
        asked = [one for one in asked if len(one[2])]
        parts = [_part(*one, work.scratch) for one in asked]
        job = {
            "model": onnxfile.save(pooled(onnxfile.load(source.path / "model.onnx")), work.scratch / "graph.onnx"),
            "out": out / MODEL,
            "calibration": work.scratch / "calibration.npy",
            "mean": list(work.norm[0]),
            "std": list(work.norm[1]),
            "answers": parts,
            **{"platform": self.platform, "algorithm": self.algorithm},
        }
        said = run_worker("rknn", job, out, where=work.where, console=work.console, threads=work.threads)
        for (_, images, rows), part in zip(asked, parts, strict=True):
            self._told[_id(images, rows)] = np.asarray(np.load(part["out"], allow_pickle=False), dtype=np.float32)
        payload.write_golden(out, golden, self._told[_id(golden, asked[0][2])])
        record = {"kind": "rknn-toolkit2's table", "platform": self.platform, "layers": said["placement"]}
        (out / PLACEMENT).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        payload.write_facts(out, facts, target, MODEL, platform=self.platform)
        self.found = {**_figures(said), "platform": self.platform}
        self._say(work)
        return out / MODEL

    def answer(self, path: Path, images: Images, rows: Rows, tool: str, work: Work) -> Logits:
        """What the simulator said when the file was made."""
        return self._told[_id(images, rows)]

    def _say(self, work: Work) -> None:
        fallen = f": {self.found['fell_back']} on the CPU" if self.found["fell_back"] else ""
        work.console.log(
            f"{work.where}: {100 * self.found['npu_coverage']:.1f} % of operators on the NPU of {self.platform}{fallen}"
        )
        work.console.log(f"{work.where}: answered by {GAP}")


def _id(images: Images, rows: Rows) -> tuple[str, bytes]:
    return str(getattr(images, "filename", "")), np.asarray(rows, np.int64).tobytes()


def _part(role: str, images: Images, rows: Rows, scratch: Path) -> dict[str, str]:
    """One item of the job; images that lie in a file already stay there."""
    stored = getattr(images, "filename", None)
    if stored is None:
        stored = scratch / f"{role}.npy"
        np.save(stored, images)
    np.save(scratch / f"{role}-rows.npy", np.asarray(rows, np.int64))
    return {
        "images": str(stored),
        "rows": str(scratch / f"{role}-rows.npy"),
        "out": str(scratch / f"{role}-logits.npy"),
    }


def _figures(said: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a compilation; cycles are the compiler's estimate, and no latency."""
    layers = said["placement"]
    fallen = [f"{one['operator']} ({one['name']})" for one in layers if one["place"] != "NPU"]
    return {
        "npu_coverage": (len(layers) - len(fallen)) / len(layers) if layers else 0.0,
        "n_npu_operators": len(layers) - len(fallen),
        "n_cpu_operators": len(fallen),
        "fell_back": ", ".join(fallen),
        "estimated_by": f"rknn-toolkit2 {said['toolkit']}",
        "estimated_cycles": sum(one["cycles"] for one in layers),
        "internal_memory_kib": said["internal_kib"],
        "weight_memory_kib": said["weight_kib"],
        "accuracy_note": GAP,
    }
