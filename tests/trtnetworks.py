"""Networks of several families, taught for a moment on made-up pictures, as the files of both TensorRT targets.

`python -m tests.trtnetworks [NAME ...]` prints what became of each; it needs TensorRT-RTX.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from edgekd import profiles
from edgekd.artifact import Artifact
from edgekd.params import ExportParams, GraphParams, QuantizeParams, Roles
from edgekd.stages import evaluate, export, graph, quantize
from tests.onnxtoys import CONTEXT, artifact

# {network: epochs}. 64 steps: the statistics of the BatchNorms have forgotten where they began. ShuffleNetV2 has activations of
# wide ranges then (22 dB of SQNR in int8, 27 after 160 steps).
NETWORKS = {"resnet8": 8, "resnet20": 8, "wrn_16_2": 8, "mobilenetv2_05": 8, "shufflenetv2_1x": 20}
TARGETS = ("tensorrt-int8", "tensorrt-fp16")
CLASSES, SIDE, TRAIN, TEST = 4, 32, 160, 60
ROLES = Roles()


def folder(root: Path, name: str) -> Path:
    made = root / name / "11111111-22222222"
    made.mkdir(parents=True)
    return made


def pictures(root: Path) -> Artifact:
    """Data: smooth random pictures, one a class, with noise."""
    random = np.random.Generator(np.random.PCG64(7))
    coarse = random.uniform(40, 215, (CLASSES, SIDE // 8, SIDE // 8, 3))
    patterns = coarse.repeat(8, axis=1).repeat(8, axis=2)
    place = folder(root, "data")
    for split, n in (("train", TRAIN), ("test", TEST)):
        labels = np.arange(n, dtype=np.int64) % CLASSES
        images = patterns[labels] + random.normal(0, 15, (n, SIDE, SIDE, 3))
        np.save(place / f"images_{split}.npy", images.clip(0, 255).astype(np.uint8))
        np.save(place / f"labels_{split}.npy", labels)
    np.save(place / "twins_train.npy", np.empty(0, dtype=np.int64))
    facts = {
        "name": "pictures", "classes": [f"class {n}" for n in range(CLASSES)], "channels": 3, "height": SIDE, "width": SIDE,
        "normalize": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}, "augment": [],
        "splits": {"train": TRAIN, "test": TEST},
    }  # fmt: skip
    (place / "data.json").write_text(json.dumps(facts), encoding="utf-8")
    return artifact("data", place)


def floated(name: str, data: Artifact, root: Path) -> Artifact:
    """The float graph of a network after a few steps of training."""
    opened = evaluate.open_data(data, ROLES)
    generator = torch.Generator().manual_seed(3)
    network = opened.build(name, generator).train()
    training, (mean, std) = opened.training(None), opened.normal("dataset")
    inputs = training.images.permute(0, 3, 1, 2).float() / 255
    inputs = (inputs - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    for _ in range(NETWORKS[name]):
        for batch in torch.randperm(len(inputs), generator=generator).split(20):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(inputs[batch]), training.labels[batch]).backward()
            optimizer.step()
    place = folder(root, "student")
    evaluate.write_network(place, network.eval(), name, opened, (mean, std))
    made = artifact("graph", folder(root, "graph"))
    graph.run(GraphParams(roles=ROLES), {"data": data, "student": artifact("student", place)}, made.path, CONTEXT)
    return made


def shipped(target: str, data: Artifact, source: Artifact, root: Path) -> dict[str, Any]:
    """A target's file made and checked by the stages themselves, and what they say of it."""
    profile = profiles.target(target)
    made = artifact(f"quantized/{profile.scheme}", folder(root, f"{target}-graph"))
    use = "fp16" if profile.scheme == "fp16" else "ptq"
    params = QuantizeParams(scheme=profile.scheme, use=use, images=100, roles=ROLES, seed=0)
    parity = quantize.run(params, {"data": data, "graph": source}, made.path, CONTEXT).metrics
    place = folder(root, target)
    own = ExportParams(
        target=target, family=profile.family, exporter=profile.exporter, scheme=profile.scheme, parity=profile.bounds
    )
    metrics = export.run(own, {"source": made}, place, CONTEXT).metrics
    kinds = [node.op_type for node in onnx.load(place / "model.onnx").graph.node]
    return {
        "nodes": len(kinds), "quantize": kinds.count("QuantizeLinear"), "dequantize": kinds.count("DequantizeLinear"),
        "sqnr_db": parity["sqnr_db"], "agreement_percent": parity["agreement_percent"], "metrics": metrics,
        "tool": json.loads((place / "lint.json").read_text(encoding="utf-8"))["tool"],
    }  # fmt: skip


def spread(source: Artifact) -> float:
    """How far the golden logits differ from image to image, of their range: near 0 any two files agree."""
    with np.load(source.path / "golden.npz") as golden:
        logits = golden["logits"]
    return float(logits.std(0).mean() / (logits.max() - logits.min()))


def main(names: list[str]) -> None:
    form = "{:<16} {:<14} {:>5} {:>4} {:>4} {:>7} {:>7} {:>7} {:>8}  {}"
    print(form.format("network", "target", "nodes", "Q", "DQ", "SQNR dB", "agree %", "layers", "build s", "check"))
    for name in names or NETWORKS:
        with tempfile.TemporaryDirectory() as text:
            root = Path(text)
            data = pictures(root)
            source = floated(name, data, root)
            for target in TARGETS:
                f = shipped(target, data, source, root)
                tool = f["tool"]
                counts = (
                    f["nodes"],
                    f["quantize"],
                    f["dequantize"],
                    f"{f['sqnr_db']:.1f}",
                    f"{f['agreement_percent']:.1f}",
                )
                built = (tool.get("layers", ""), tool.get("build_seconds", ""), f["metrics"]["tool_check"])
                print(form.format(name, target, *counts, *built), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
