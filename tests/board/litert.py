"""A real int8 .tflite for the fake board, in `kept/`, and what LiteRT answers to it on x86-64.

    edgekd tools install litert; python -m tests.board.litert

makes both files anew: the resnet8 of digits that `world.exported` trains, `edgekd export --format litert-int8`, then the runner
here under the tool environment's Python, once for each kind of kernels. `answers.npz` holds the 359 test images, the golden images
and logits of the export, and those answers. Another machine may train other weights: the two are made together.

Seen on emulated aarch64 (correctness only), 359 images, 281 right there and here, no answer another: every logit to the last bit
with XNNPACK and with the reference kernels; with LiteRT's own fast ones two steps of the logits' scale at most.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from edgekd import profiles
from edgekd.runner.verify import sha256
from edgekd.stages.bench_bundle import build_runner
from edgekd.store import Store
from edgekd.tools import place
from tests.faults import chain
from tests.faults.chain import expect

HERE = Path(__file__).parent / "kept"
MODEL, ANSWERS = HERE / "model.tflite", HERE / "answers.npz"
TARGET = "litert-int8"
KERNELS = ("xnnpack", "builtin", "reference")
SIDE, CLASSES = 8, 10
ARRAYS = {"images": "images.npy", "labels_file": "labels.npy", "rows": "rows.npy"}


def lay(folder: Path, kernels: str, kind: str) -> Path:
    """Write the bundle of the kept files for one kind of kernels, into a folder made here."""
    folder.mkdir()
    (folder / MODEL.name).write_bytes(MODEL.read_bytes())
    with np.load(ANSWERS) as kept:
        for key, name in ARRAYS.items():
            np.save(folder / name, kept[key])
        np.savez(folder / "golden.npz", images=kept["golden_images"], logits=kept["golden_logits"])
        network = {
            "mean": kept["mean"].tolist(),
            "std": kept["std"].tolist(),
            "size": [SIDE, SIDE],
            "resize": "fit-crop",
        }
    asked = {
        "schema_version": 2, "kind": "bench", "target": TARGET, "lineage": {}, "model": MODEL.name, "precision": "int8",
        "runtime": "litert", "provider": "cpu", "options": {"kernels": kernels}, "threads": 1, "profile": "smoke",
        "device_kind": kind, "probes": {}, "labels": [str(i) for i in range(CLASSES)], **ARRAYS, "golden": "golden.npz",
        "tolerance": profiles.target(TARGET).golden_error_to_range, "batch": 64,
    }  # fmt: skip
    files = {path.name: sha256(path) for path in folder.iterdir()}
    (folder / "bundle.json").write_text(json.dumps({**asked, **network, "files": files}))
    return folder


def main() -> int:
    """Make both files."""
    python = str(place.require("litert", "tests.board.litert").python)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        chain.write_recipe(work)
        done = chain.edgekd(work, "export", "--format", TARGET, **{place.VARIABLE: str(place.root())})
        expect(done.process.returncode == 0, done.text[-3000:])
        kept = _exported(Store(work / "workspace"))
        np.savez_compressed(ANSWERS, **kept)
        build_runner(work / "runner.pyz")
        for kernels in KERNELS:
            lay(work / kernels, kernels, "this CPU")
            subprocess.run([python, "runner.pyz", "bench", kernels, f"{kernels}-out"], cwd=work, check=True)
            with np.load(work / f"{kernels}-out" / "predictions.npz") as file:
                kept[kernels] = file["logits"]
        np.savez_compressed(ANSWERS, **kept)
    for path in (MODEL, ANSWERS):
        sys.stdout.write(f"{path}: {path.stat().st_size:,} bytes, SHA-256 {sha256(path)}\n")
    return 0


def _exported(store: Store) -> dict[str, np.ndarray]:
    """Keep the model; gives what belongs to it."""
    data, export = store.newest("data").path, store.newest(f"export/{TARGET}").path
    HERE.mkdir(exist_ok=True)
    MODEL.write_bytes((export / MODEL.name).read_bytes())
    facts = json.loads((export / "model.json").read_text())["normalize"]
    labels = np.load(data / "labels_test.npy")
    with np.load(export / "golden.npz") as golden:
        return {
            "images": np.load(data / "images_test.npy"), "labels_file": labels, "rows": np.arange(len(labels)),
            "golden_images": golden["images"], "golden_logits": golden["logits"],
            "mean": np.asarray(facts["mean"]), "std": np.asarray(facts["std"]),
        }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
