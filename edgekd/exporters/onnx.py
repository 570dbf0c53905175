"""ONNX as it is: the source's graph with the target's name inside, labels, facts and a golden batch beside it.

Source: ONNX operator set 18 (Linux Foundation, Apache-2.0). Needs: onnx.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from edgekd import onnxfile
from edgekd.artifact import Artifact
from edgekd.errors import RecipeError
from edgekd.exporters.base import Exporter, Work
from edgekd.params import ExportParams


class ONNX(Exporter):
    """One `model.onnx` for onnxruntime, OpenVINO and every other reader of ONNX.

    Inside the file: classes, normalisation, layout, lineage. Beside it: `labels.txt` (one class a line), `model.json`,
    `golden.npz` (uint8 images and the logits that must come out).
    """

    VERSION = 1
    files = ("model.onnx", "model.json", "labels.txt", "golden.npz")

    def export(self, source: Artifact, out: Path, *, target: ExportParams, work: Work | None = None) -> Path:
        """Write the four files; the graph itself is not touched."""
        facts = json.loads((source.path / "model.json").read_text(encoding="utf-8"))
        found = facts.get("scheme", "none")
        if found != target.scheme:
            raise RecipeError(
                f"export/{target.target}", f"the source has scheme {found!r}", f"scheme {target.scheme!r}"
            )
        model = onnxfile.load(source.path / "model.onnx")
        inside = onnxfile.metadata(model)
        onnxfile.set_metadata(model, {**inside, "target": target.target})
        onnxfile.check(model, f"export/{target.target}", facts["opset"])
        path = onnxfile.save(model, out / "model.onnx")
        labels = facts["classes"]
        (out / "labels.txt").write_text("".join(f"{_one_line(label)}\n" for label in labels), encoding="utf-8")
        facts = {**facts, "target": target.target, "family": target.family}
        (out / "model.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        shutil.copyfile(source.path / "golden.npz", out / "golden.npz")
        return path


def _one_line(label: str) -> str:
    """A label that stays on its line: class i is line i."""
    return " ".join(label.split())
