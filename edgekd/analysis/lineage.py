"""The chain of an artifact, from the data set to itself, and whether every hash in it is what it is said to be."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekd import integrity, onnxfile, predictions, stats
from edgekd.artifact import MANIFEST, Artifact, material, material_key, read
from edgekd.errors import IntegrityError
from edgekd.integrity import Fault
from edgekd.store import Store

RESULT, SAMPLES, SERIES = "result.json", "samples.npz", "end_to_end_ns"
NS_PER_MS = 1e6
ROUNDING = 1e-9  # relative: the same figure computed by another build of NumPy
INSIDE = (("source", "source_digest"), ("graph", "graph_digest"))  # metadata of an ONNX file: (artifact id, its digest)


@dataclass
class Chain:
    """Artifacts, upstream first, and what of the chain is not there.

    Attributes:
        artifacts: {id: artifact}; the last one is that which was asked for.
        faults: Inputs that are gone, damaged or not the ones that were used.
    """

    artifacts: dict[str, Artifact] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    @property
    def steps(self) -> dict[str, Artifact]:
        """{step: artifact}."""
        return {artifact.step: artifact for artifact in self.artifacts.values()}


def chain(store: Store, last: Artifact) -> Chain:
    """One artifact and everything that it was made from; what is not there is a fault, not an error."""
    found = Chain()
    seen: set[str] = set()

    def visit(artifact: Artifact) -> None:
        seen.add(artifact.id)
        for role in sorted(artifact.inputs, key=lambda role: (role != "data", role)):
            name = artifact.inputs[role]
            source = store.get(name)
            if source is None and name not in seen:
                seen.add(name)
                found.faults.append(_absent(store, name, artifact.id, role))
            if source is not None:
                found.faults += _linked(artifact, role, source)
            if source is not None and name not in seen:
                visit(source)
        found.artifacts[artifact.id] = artifact

    visit(last)
    return found


def verify(found: Chain) -> Iterator[Fault]:
    """Recompute everything that the artifacts of a chain say of each other and of themselves: what is wrong, upstream first."""
    yield from found.faults
    for artifact in found.artifacts.values():
        wrong = list(integrity.faults(artifact))
        yield from wrong
        yield from _key(artifact)
        spoilt = {fault.file for fault in wrong}
        for name in artifact.manifest["files"]:
            if name.endswith(".onnx") and name not in spoilt:
                yield from _inside(artifact, name, found)
        if predictions.FILE in artifact.manifest["files"] and predictions.FILE not in spoilt:
            yield from _answers(artifact)
        if artifact.step.startswith("bench/") and not spoilt & {RESULT, SAMPLES}:
            yield from _measured(artifact, found.artifacts)


def _absent(store: Store, name: str, by: str, role: str) -> Fault:
    """Why an input cannot be read."""
    path = store.root / name
    if not path.is_dir():
        return Fault(name, "", f"is gone, and {by} was made from it (input {role})", "the artifact")
    try:
        read(path)
    except IntegrityError as error:
        return Fault(name, MANIFEST, error.found, error.expected)
    return Fault(name, "", "is a symbolic link", "a folder of the workspace itself")


def _linked(artifact: Artifact, role: str, source: Artifact) -> Iterator[Fault]:
    """Whether an input still is the one that was used."""
    entry: Mapping[str, Any] = artifact.manifest["inputs"][role]
    for name, value in (("step", source.step), ("key", source.key), ("digest", source.digest)):
        if entry[name] != value:
            yield Fault(artifact.id, MANIFEST, f"says {name} {entry[name]} of its input {source.id}", f"{name} {value}")


def _key(artifact: Artifact) -> Iterator[Fault]:
    found = material_key(material(artifact.manifest))
    if found != artifact.key:
        said = f"says parameters, inputs and versions whose key is {found}"
        yield Fault(artifact.id, MANIFEST, said, f"key {artifact.key}")


def _inside(artifact: Artifact, name: str, found: Chain) -> Iterator[Fault]:
    """Whether what an ONNX file says of its origin is this chain; of a chain with gaps, as far as it goes."""
    known = found.artifacts
    try:
        said = onnxfile.metadata(onnxfile.load(artifact.path / name))
    except IntegrityError as error:
        yield Fault(artifact.id, name, error.found, error.expected)
        return
    imported = {
        str(a.manifest["params"].get("onnx_sha256")) for a in known.values() if a.manifest.get("stage") == "adopt"
    }
    for origin, digest in INSIDE:
        if origin not in said or said.get(digest) in imported:
            continue
        source = known.get(said[origin])
        if source is None and not found.faults:
            yield Fault(artifact.id, name, f"says it was made from {said[origin]}", "an artifact of this chain")
        elif source is not None and source.digest != said.get(digest):
            words = f"says it was made from {source.id} of digest {said.get(digest)}"
            yield Fault(artifact.id, name, words, f"digest {source.digest}")


def _answers(artifact: Artifact) -> Iterator[Fault]:
    """Whether the accuracy figures are those of the stored answers."""
    try:
        found = predictions.summarize(predictions.load(artifact.path))
    except IntegrityError as error:
        yield Fault(artifact.id, predictions.FILE, error.found, error.expected)
        return
    for name, value in found.items():
        said = artifact.metrics.get(name)
        if said is not None and not _same(said, value):
            yield Fault(artifact.id, MANIFEST, f"says {name} {said}", f"{value}, from {predictions.FILE}")


def _measured(artifact: Artifact, known: Mapping[str, Artifact]) -> Iterator[Fault]:
    """Whether the measured file is the exported one, and the median is that of the samples."""
    try:
        result = json.loads((artifact.path / RESULT).read_text(encoding="utf-8"))
        measured = str(result["model"]["sha256"])
        with np.load(artifact.path / SAMPLES, allow_pickle=False) as file:
            samples = file[SERIES] if SERIES in file.files else np.empty(0)
    except (*predictions.DAMAGED, zipfile.BadZipFile) as error:
        yield Fault(artifact.id, RESULT, f"cannot be read with {SAMPLES} ({error})", "what the runner wrote")
        return
    export = known.get(artifact.inputs.get("export", ""))
    if export is not None:
        shipped = {name: str(entry["sha256"]) for name, entry in export.manifest["files"].items()}
        if measured not in shipped.values():
            models = ", ".join(f"{name} {shipped[name]}" for name in shipped if name.startswith("model."))
            yield Fault(artifact.id, RESULT, f"measured a model of SHA-256 {measured}", f"{models} of {export.id}")
    said = artifact.metrics.get("latency_p50_ms")
    if said is not None and len(samples):
        median = stats.percentile(samples / NS_PER_MS, 50)
        if not _same(said, median):
            yield Fault(artifact.id, MANIFEST, f"says latency_p50_ms {said}", f"{median}, from {SAMPLES}")


def _same(said: Any, value: float) -> bool:
    return isinstance(said, int | float) and abs(said - value) <= ROUNDING * max(abs(value), 1)
