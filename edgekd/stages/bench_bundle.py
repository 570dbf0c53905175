"""What is brought to a device: runner.pyz and a bundle, to be measured (`bench`) or used (`deploy`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgekd import profiles
from edgekd.artifact import Artifact
from edgekd.data import roles
from edgekd.params import BenchParams
from edgekd.runner.bundle import DATA, FILE, SCHEMA_VERSION
from edgekd.runner.verify import sha256
from edgekd.stages.runner_archive import build_runner

__all__ = ["build_runner", "lay_bundle"]

MODEL, GOLDEN, FACTS, ROWS, RUNNER = "model.onnx", "golden.npz", "model.json", "rows.npy", "runner.pyz"
IMAGES, LABELS = "images_test.npy", "labels_test.npy"
BATCH = 64  # images in one batch of the throughput and accuracy passes: stated beside the figure


def lay_bundle(
    params: BenchParams,
    inputs: Mapping[str, Artifact],
    folder: Path,
    *,
    share: bool,
    kind: Literal["bench", "deploy"] = "bench",
    runner: bool = False,
    lineage: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write the bundle that `edgekd.runner.bundle` describes, with the hashes that the artifacts were sealed with.

    Args:
        params: Runtime, provider, threads, profile, roles, golden error.
        inputs: `export`, and for kind `bench` `data`.
        folder: Made here.
        share: The device sees this machine's files: the test images stay where they lie.
        kind: `bench`: with the test images; `deploy`: without.
        runner: Put runner.pyz into the folder too, listed with the rest.
        lineage: {step: key}; None: of the inputs and what they were made from directly.
        texts: {file name: contents} of files for people, listed with the rest.
    """
    folder.mkdir()
    named, files = _gather(inputs, folder, share, kind)
    bundle = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "lineage": dict(lineage) if lineage is not None else _lineage(inputs),
        **_asked(params),
        **_network(inputs["export"]),
        **named,
    }
    if kind == "bench":
        np.save(folder / ROWS, roles.split(inputs["data"], params.roles).rows["test"])
        bundle["rows"], files[ROWS] = ROWS, sha256(folder / ROWS)
    if runner:
        files[RUNNER] = sha256(build_runner(folder / RUNNER))
    for name, words in (texts or {}).items():
        (folder / name).write_bytes(words.encode())
        files[name] = sha256(folder / name)
    text = json.dumps({**bundle, "files": files}, indent=1, sort_keys=True)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def _asked(params: BenchParams) -> dict[str, Any]:
    """What the bundle says of the run."""
    return {
        "target": params.target,
        "runtime": params.runtime,
        "provider": params.provider,
        "options": params.options or {},
        "threads": params.threads,
        "profile": params.profile,
        "device_kind": params.kind or _kind(params),
        "probes": params.probes or {},
        "tolerance": params.golden_error_to_range,
        "batch": BATCH,
    }


def _kind(params: BenchParams) -> str:
    """What its times are worth; a GPU of this machine is no more its processor than a board is."""
    if params.transport != "local":
        return "board"
    return "this CPU" if "cpu" in params.provider.lower() else "this accelerator"


def _network(export: Artifact) -> dict[str, Any]:
    """What the bundle says of the network: its classes and how an image becomes its input."""
    facts = json.loads((export.path / FACTS).read_text(encoding="utf-8"))
    with np.load(export.path / GOLDEN, allow_pickle=False) as golden:
        height, width = golden["images"].shape[1:3]
    scheme = export.manifest.get("params", {}).get("scheme") or facts.get("scheme", "none")
    return {
        "mean": list(facts["normalize"]["mean"]),
        "std": list(facts["normalize"]["std"]),
        "size": [int(height), int(width)],
        "resize": (export.manifest.get("recipe", {}).get("data") or {}).get("resize") or "fit-crop",
        "labels": list(facts["classes"]),
        "precision": profiles.precision(scheme),
    }


def _lineage(inputs: Mapping[str, Artifact]) -> dict[str, str]:
    direct = {artifact.step: str(artifact.manifest["key"]) for artifact in inputs.values()}
    sources = (source for artifact in inputs.values() for source in artifact.manifest["inputs"].values())
    return {**{source["step"]: str(source["key"]) for source in sources}, **direct}


def _gather(
    inputs: Mapping[str, Artifact], folder: Path, share: bool, kind: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Copy the artifacts' files into the bundle, or name them where they lie: ({key: name in the bundle}, {name: SHA-256})."""
    main, others = _model_files(inputs["export"])
    wanted = [("model", "export", main), ("golden", "export", GOLDEN), *(("", "export", name) for name in others)]
    if kind == "bench":
        wanted += [(key, "data", name) for key, name in zip(DATA, (IMAGES, LABELS), strict=False)]
    named, files = {}, {}
    for key, role, name in wanted:
        source = (inputs[role].path / name).resolve()
        stays = share and role == "data"
        if not stays:
            shutil.copyfile(source, folder / name)
        place = str(source) if stays else name
        files[place] = str(inputs[role].manifest["files"][name]["sha256"])
        if key:
            named[key] = place
    return named, files


def _model_files(export: Artifact) -> tuple[str, list[str]]:
    """The file that is loaded (`file` of model.json, else model.onnx), and what lies beside it as `model.*`."""
    main = str(json.loads((export.path / FACTS).read_text(encoding="utf-8")).get("file", MODEL))
    listed = sorted(export.manifest["files"])
    return main, [name for name in listed if name.startswith("model.") and name not in (main, FACTS)]
