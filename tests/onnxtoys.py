"""A small real chain for the tests of graph, quantize and export: a trained resnet8, its graph, its int8 form, their exports."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgekd.artifact import Artifact
from edgekd.console import Console
from edgekd.params import ExportParams, GraphParams, QuantizeParams, Roles
from edgekd.stages import export, graph, quantize
from edgekd.stages.base import RunContext, StageResult

CLASSES = ["cat", "dog", "big truck"]
SIZE = 12
TRAIN, TEST, VAL = 240, 150, 40
ROLES = Roles(val=VAL)
CONTEXT = RunContext((), None, Path("unused"), Console(quiet=True))
QUANTIZE = QuantizeParams(scheme="u8s8", images=100, roles=ROLES, seed=0)
ONNX = ExportParams(target="onnx", family="onnx", exporter="onnx", scheme="none")
INT8 = ExportParams(target="onnx-int8", family="onnx", exporter="onnx", scheme="u8s8")


def artifact(step: str, folder: Path) -> Artifact:
    """A folder as the stages see it."""
    return Artifact(
        folder, {"step": step, "key": "1" * 64, "digest": "2" * 64, "metrics": {}, "inputs": {}, "files": {}}
    )


@dataclass(frozen=True)
class Chain:
    """Every artifact of the chain, and what the stages returned."""

    data: Artifact
    student: Artifact
    graph: Artifact
    quantized: Artifact
    exports: dict[str, Artifact]
    results: dict[str, StageResult]

    def run_graph(self, out: Path, **params: Any) -> StageResult:
        """Stage `graph` again."""
        inputs = {"data": self.data, "student": self.student}
        return graph.run(GraphParams(roles=ROLES, **params), inputs, out, CONTEXT)

    def run_quantize(self, out: Path, **params: Any) -> StageResult:
        """Stage `quantize` again."""
        inputs = {"data": self.data, "graph": self.graph}
        return quantize.run(QUANTIZE.model_copy(update=params), inputs, out, CONTEXT)


@cache
def chain() -> Chain:
    """Built once a process, in a folder that goes with it."""
    keep = tempfile.TemporaryDirectory()
    root = Path(keep.name)
    made = {name: _folder(root, name) for name in ("data", "student", "graph", "quantized", "onnx", "onnx-int8")}
    steps = {name: artifact(name, folder) for name, folder in made.items()}
    _write_data(made["data"])
    _write_student(steps["data"], made["student"])
    partial = Chain(steps["data"], steps["student"], steps["graph"], steps["quantized"], {}, {})
    partial.results["graph"] = partial.run_graph(made["graph"])
    partial.results["quantized"] = partial.run_quantize(made["quantized"])
    for params, source in ((ONNX, "graph"), (INT8, "quantized")):
        partial.exports[params.target] = steps[params.target]
        partial.results[params.target] = export.run(params, {"source": steps[source]}, made[params.target], CONTEXT)
    _KEPT.append(keep)
    return partial


_KEPT: list[Any] = []


def _folder(root: Path, name: str) -> Path:
    folder = root / name / "11111111-22222222"
    folder.mkdir(parents=True)
    return folder


def _write_data(folder: Path) -> None:
    """Three smooth random pictures with noise: easy, but not trivial."""
    generator = np.random.Generator(np.random.PCG64(7))
    coarse = generator.uniform(40, 215, (len(CLASSES), SIZE // 4, SIZE // 4, 3))
    patterns = coarse.repeat(4, axis=1).repeat(4, axis=2)
    for split, n in (("train", TRAIN), ("test", TEST)):
        labels = np.arange(n, dtype=np.int64) % len(CLASSES)
        images = patterns[labels] + generator.normal(0, 30, (n, SIZE, SIZE, 3))
        np.save(folder / f"images_{split}.npy", images.clip(0, 255).astype(np.uint8))
        np.save(folder / f"labels_{split}.npy", labels)
    np.save(folder / "twins_train.npy", np.empty(0, dtype=np.int64))
    facts = {
        "name": "toy",
        "classes": CLASSES,
        "channels": 3,
        "height": SIZE,
        "width": SIZE,
        "normalize": {"mean": [0.5, 0.45, 0.4], "std": [0.25, 0.2, 0.3]},
        "augment": [],
        "splits": {"train": TRAIN, "test": TEST},
    }
    (folder / "data.json").write_text(json.dumps(facts), encoding="utf-8")


def _write_student(data: Artifact, folder: Path) -> None:
    import torch

    from edgekd.stages import evaluate

    opened = evaluate.open_data(data, ROLES)
    generator = torch.Generator().manual_seed(3)
    network = opened.build("resnet8", generator).train()
    training, (mean, std) = opened.training(None), opened.normal("dataset")
    inputs = training.images.permute(0, 3, 1, 2).float() / 255
    inputs = (inputs - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):
        for batch in torch.randperm(len(inputs), generator=generator).split(40):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(inputs[batch]), training.labels[batch]).backward()
            optimizer.step()
    evaluate.write_network(folder, network.eval(), "resnet8", opened, (mean, std))


# ---- mutations: each makes another network that still loads, runs and is valid ONNX ----------------------------------


def _weights(model: onnx.ModelProto, rank: int, place: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    chosen = [tensor for tensor in model.graph.initializer if len(tensor.dims) == rank and tensor.data_type == 1][place]
    value = np.ascontiguousarray(change(numpy_helper.to_array(chosen)), dtype=np.float32)
    chosen.CopyFrom(numpy_helper.from_array(value, chosen.name))


def _without_relu(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    node.op_type = "Identity"


def _other_padding(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    pads = next(attribute for attribute in node.attribute if attribute.name == "pads")
    pads.ints[:] = [2, 2, 0, 0]


MUTATIONS: dict[str, Callable[[onnx.ModelProto], None]] = {
    "wrong weights": lambda model: _weights(model, 4, 2, lambda w: w[::-1]),
    "one filter scaled": lambda model: _weights(
        model, 4, 0, lambda w: w * np.linspace(1, 1.02, len(w))[:, None, None, None]
    ),
    "kernels transposed": lambda model: _weights(model, 4, 1, lambda w: w.swapaxes(2, 3)),
    "colours swapped": lambda model: _weights(model, 4, 0, lambda w: w[:, ::-1]),
    "classes swapped": lambda model: _weights(
        model, 2, 0, lambda w: w[::-1] if w.shape[0] == len(CLASSES) else w[:, ::-1]
    ),
    "no relu": _without_relu,
    "other padding": _other_padding,
}
