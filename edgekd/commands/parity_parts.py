"""The parts of a parity ladder from the artifacts of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekd import integrity, predictions, profiles
from edgekd.artifact import Artifact
from edgekd.commands.rungs import TORCH, File, Missing, Parts, Stored, Twin
from edgekd.console import Console
from edgekd.data import normalize
from edgekd.errors import RecipeError, UsageError
from edgekd.params import Roles
from edgekd.stages.converted import normalization, read_json, spread

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

    from edgekd.stages.evaluate import Data

MODEL, FACTS, LABELS, GOLDEN, RANGES = "model.onnx", "model.json", "labels.txt", "golden.npz", "ranges.json"
CALIBRATION = "calibration.json"
IMAGES = 512
UNUSED = ("teacher", "views")  # nothing of them is run


def gather(made: Mapping[str, Artifact], images: int, threads: int, console: Console) -> Parts:
    """Everything to climb, after a look that every file still is what was sealed.

    Args:
        made: {step: artifact} of a run, in the order of the chain.
        images: Of test, evenly spread; the golden images are shown besides.
        threads: CPU threads.
        console: Told what is looked at.

    Raises:
        UsageError: The run has no graph yet.
        IntegrityError: A file is not what was sealed.
        RecipeError: The network was made for other data.
    """
    _first(made)
    for step, artifact in made.items():
        if step not in UNUSED:
            integrity.require(artifact)
    parts = lay(made, images, threads)
    console.log(f"parity: {len(parts.rows)} images, {np.sum(parts.rows >= 0)} of test; what was sealed is whole")
    return parts


def lay(made: Mapping[str, Artifact], images: int = IMAGES, threads: int = 1) -> Parts:
    """The same as its files lie there now.

    Raises:
        UsageError: The run has no graph yet.
        RecipeError: The network was made for other data.
    """
    from edgekd.stages import evaluate

    first = _first(made)
    data = evaluate.open_data(made["data"], Roles.model_validate(first.manifest["params"]["roles"]))
    owner = made.get("qat") or made.get("student")
    network, facts = None, read_json(first.path / FACTS)
    if owner is not None and "student" in first.inputs:
        network, facts = evaluate.read_network(owner, data)[0].float().eval(), read_json(owner.path / FACTS)
    rounded = None if network is None or "qat" not in made else _twin(made, network)
    shown, labels, rows = _images(data, first, images, golden=rounded is not None or "qat" not in made)
    return Parts(
        images=shown,
        labels=labels,
        rows=rows,
        classes=list(data.facts["classes"]),
        norm=_norm(made, data, facts),
        network=network,
        retrace=None if network is None else _retracer(network, facts, first, shown),
        rungs=_rungs(made, rounded),
        names={} if owner is None else {f"{owner.step}: {FACTS}": facts["classes"]},
        norms={} if owner is None else {f"{owner.step}: {FACTS}": normalization(facts)},
        threads=threads,
    )


def _first(made: Mapping[str, Artifact]) -> Artifact:
    """The first graph of a run."""
    found = made.get("graph") or next((a for step, a in made.items() if step.startswith("quantized/")), None)
    if found is None or "data" not in made:
        raise UsageError("edgekd parity", "the run has no graph yet", "a network and its ONNX file", "edgekd export")
    return found


def _images(
    data: Data, graph: Artifact, images: int, *, golden: bool
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(images, labels, rows of test or -1): test spread evenly, then the golden images with the labels that they have in train."""
    test = data.arrays.images("test")
    rows = spread(test.rows, images)
    shown, labels = np.asarray(test.images[rows]), _labels(data, "test", rows)
    if not golden:
        return shown, labels, rows
    from edgekd.data.calibration import golden_rows

    with np.load(graph.path / GOLDEN, allow_pickle=False) as file:
        more = golden_rows(data.arrays, len(file["images"]))
        shown = np.concatenate([shown, file["images"]])
    labels = np.concatenate([labels, _labels(data, "train", more)])
    return shown, labels, np.concatenate([rows, np.full(len(more), -1)])


def _labels(data: Data, role: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return data.arrays.labels(role)[np.searchsorted(data.arrays.rows[role], rows)]


def _norm(made: Mapping[str, Artifact], data: Data, facts: Mapping[str, Any]) -> normalize.Statistics:
    """What the network was trained with: the recipe's name, resolved on the data; of an imported file what was found then."""
    student = made.get("student")
    named = None if student is None else student.manifest["params"].get("normalize")
    if named is None:
        return normalization(facts)
    try:
        mean, std = data.normal(named)
    except RecipeError:
        return normalization(facts)
    return tuple(mean), tuple(std)


def _retracer(network: nn.Module, facts: Mapping[str, Any], graph: Artifact, shown: npt.NDArray[np.uint8]) -> Any:
    """The network as stage `graph` makes it, made again."""
    params = graph.manifest["params"]

    def retrace() -> ModelProto:
        from edgekd import onnxfile
        from edgekd.stages import simplification, tracing

        size = (facts["height"], facts["width"])
        traced = onnxfile.strip(tracing.trace(network, facts["channels"], size, params["opset"]))
        return simplification.simplify(
            traced, params["simplify"], normalize.apply(shown[:1], *normalization(dict(facts)))
        )[0]

    return retrace


def _rungs(made: Mapping[str, Artifact], rounded: Twin | None) -> list[File | Stored | Twin | Missing]:
    found: list[File | Stored | Twin | Missing] = []
    for step, artifact in made.items():
        kind = step.partition("/")[0]
        if kind == "graph":
            found.append(_file(artifact, TORCH if "student" in artifact.inputs else ""))
            found += [rounded or _fake_quant(made["qat"])] if "qat" in made else []
        elif kind == "quantized":
            found.append(_quantized(made, artifact))
        elif kind == "export":
            found += _exported(made, artifact)
        elif kind == "bench":
            found.append(_measured(made, artifact))
    return found


def _file(artifact: Artifact, before: str, **more: Any) -> File:
    facts = read_json(artifact.path / FACTS)
    path = artifact.path / LABELS
    labels = path.read_text(encoding="utf-8").splitlines() if path.is_file() else None
    scheme = str(facts.get("scheme", "none"))
    return File(artifact.step, artifact.path / MODEL, before, scheme=scheme, facts=facts, labels=labels, **more)


def _quantized(made: Mapping[str, Artifact], artifact: Artifact) -> File:
    if "graph" not in made:
        return _file(artifact, "")  # imported as it is
    qat = made.get("qat")
    balanced = _equalized(read_json(artifact.path / CALIBRATION)["args"])
    stored = read_json(qat.path / RANGES) if qat is not None else {}
    if stored.get("scheme") != artifact.step.removeprefix("quantized/"):
        return _file(artifact, "graph", equalized=balanced)
    ranges = {name: (float(own["scale"]), int(own["zero_point"])) for name, own in stored["ranges"].items()}
    return _file(artifact, "qat", source="graph", ranges=ranges)


def _equalized(args: Mapping[str, Any]) -> bool:
    """Whether a quantizer's arguments, or those of one inside it, ask for it."""
    return any(
        value is True if name == "equalize" else isinstance(value, dict) and _equalized(value)
        for name, value in args.items()
    )


def _twin(made: Mapping[str, Artifact], network: nn.Module) -> Twin | None:
    """The fake-quantized network, rounded with the scales that it was trained with where its file rounds; None without a file."""
    told = read_json(made["qat"].path / RANGES)
    quantized = made.get(f"quantized/{told['scheme']}")
    if quantized is None:
        return None

    def build() -> nn.Module:
        from edgekd.fit.fakequant import fake_quantized
        from edgekd.stages.placement import placement

        with np.load(quantized.path / GOLDEN, allow_pickle=False) as file:
            shown = normalize.apply(file["images"], *normalization(read_json(made["qat"].path / FACTS)))
        placed = placement(network, made["graph"].path / MODEL, quantized.path / MODEL, shown)
        scales = {placed.nodes[name]: own for name, own in told["ranges"].items()}
        trained = [replace(one, **scales[one.like or one.node]) for one in placed.activations]
        return fake_quantized(network, {}, trained, placed.weights, False, placed.biases).eval()

    return Twin("qat", "graph", "fake_quant", build)


def _fake_quant(qat: Artifact) -> Stored:
    kept = predictions.load(qat.path).of("test")
    note = "answers kept by the step: fake quantization is not run again"
    return Stored("qat", "graph", "fake_quant", kept.row, kept.logits, note)


def _exported(made: Mapping[str, Artifact], artifact: Artifact) -> list[File | Missing]:
    """The file, which onnxruntime runs here where it is ONNX, and the runtimes that it is meant for and nobody ran."""
    target = artifact.step.removeprefix("export/")
    params = artifact.manifest["params"]
    before = "graph" if params["scheme"] == "none" else f"quantized/{params['scheme']}"
    if not (artifact.path / MODEL).is_file():
        return [Missing(artifact.step, before, "not run: no such runtime here")]
    found: list[File | Missing] = [_file(artifact, before, bounds=params.get("parity", {}))]
    known = profiles.targets().get(target)
    runtimes = [] if known is None else [name for name in known.runtimes if name != "onnxruntime"]
    if runtimes and not any(step.startswith(f"bench/{target}@") for step in made):
        found.append(Missing(f"{target} in {' or '.join(runtimes)}", artifact.step, "not run: no such runtime here"))
    return found


def _measured(made: Mapping[str, Artifact], artifact: Artifact) -> Stored:
    kept = predictions.load(artifact.path).of("test")
    result = read_json(artifact.path / "result.json")["runtime"]
    source = f"export/{artifact.manifest['params']['target']}"
    params = made[source].manifest["params"]
    note = f"kept by bench: {result['name']} {result['version']} on {artifact.manifest['params']['device']}"
    return Stored(artifact.step, source, params["scheme"], kept.row, kept.logits, note, params.get("parity", {}))
