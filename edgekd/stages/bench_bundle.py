"""What stage `bench` brings to a device: runner.pyz and the bundle that it measures."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import edgekd
from edgekd.artifact import Artifact
from edgekd.data import roles
from edgekd.params import BenchParams
from edgekd.runner.bundle import FILE, SCHEMA_VERSION
from edgekd.runner.verify import sha256

MODEL, GOLDEN, FACTS, ROWS = "model.onnx", "golden.npz", "model.json", "rows.npy"
IMAGES, LABELS = "images_test.npy", "labels_test.npy"
BATCH = 64  # images in one batch of the throughput and accuracy passes: stated beside the figure
RUNNER_PARTS = ("__init__.py", "stats.py", "agreement.py", "runner/**/*.py")
RUNNER_MAIN = "import sys\n\nfrom edgekd.runner.__main__ import main\n\nsys.exit(main())\n"
FIXED_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold: equal sources, equal bytes


def build_runner(path: Path) -> Path:
    """Write runner.pyz: an executable zip of the runner and its two leaves; equal sources give equal bytes.

    Stored, not packed: a packer's version would show in the bytes. (The standard library's `zipapp` writes today's date.)
    """
    root = Path(edgekd.__file__).resolve().parent
    sources = {
        f"edgekd/{file.relative_to(root).as_posix()}": file.read_bytes()
        for part in RUNNER_PARTS
        for file in root.glob(part)
    }
    with path.open("wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, content in sorted({"__main__.py": RUNNER_MAIN.encode(), **sources}.items()):
                entry = zipfile.ZipInfo(name, FIXED_DATE)
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, content)
    path.chmod(0o755)
    return path


def lay_bundle(params: BenchParams, inputs: Mapping[str, Artifact], folder: Path, *, share: bool) -> None:
    """Write the bundle that `edgekd.runner.bundle` describes, with the hashes that the artifacts were sealed with.

    Args:
        params: Runtime, provider, threads, profile, roles, golden error.
        inputs: `data` and `export`.
        folder: Made here.
        share: The device sees this machine's files: the test images stay where they lie.
    """
    facts = json.loads((inputs["export"].path / FACTS).read_text(encoding="utf-8"))
    folder.mkdir()
    np.save(folder / ROWS, roles.split(inputs["data"], params.roles).rows["test"])
    named, files = _gather(inputs, folder, share)
    bundle = {
        "schema_version": SCHEMA_VERSION,
        "model": named[MODEL],
        "runtime": params.runtime,
        "provider": params.provider,
        "threads": params.threads,
        "profile": params.profile,
        "mean": list(facts["normalize"]["mean"]),
        "std": list(facts["normalize"]["std"]),
        "labels": list(facts["classes"]),
        "images": named[IMAGES],
        "labels_file": named[LABELS],
        "rows": ROWS,
        "golden": named[GOLDEN],
        "tolerance": params.golden_error_to_range,
        "batch": BATCH,
        "files": {**files, ROWS: sha256(folder / ROWS)},
    }
    (folder / FILE).write_text(json.dumps(bundle, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _gather(inputs: Mapping[str, Artifact], folder: Path, share: bool) -> tuple[dict[str, str], dict[str, str]]:
    """Copy the artifacts' files into the bundle, or name them where they lie: ({file: name in the bundle}, {name: SHA-256})."""
    named, files = {}, {}
    for role, name in (("export", MODEL), ("export", GOLDEN), ("data", IMAGES), ("data", LABELS)):
        source = (inputs[role].path / name).resolve()
        stays = share and role == "data"
        if not stays:
            shutil.copyfile(source, folder / name)
        named[name] = str(source) if stays else name
        files[named[name]] = str(inputs[role].manifest["files"][name]["sha256"])
    return named, files
