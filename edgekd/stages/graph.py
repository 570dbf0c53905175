"""Stage `graph`: student -> the canonical float32 ONNX file, proven to be the same network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import edgekd
from edgekd import onnxfile, predictions
from edgekd.analysis.parity import ParityReport, fp32_parity
from edgekd.artifact import Artifact
from edgekd.data import calibration, normalize
from edgekd.data.base import Images
from edgekd.data.roles import Split
from edgekd.errors import RecipeError
from edgekd.onnxrun import evaluate_onnx
from edgekd.params import GraphParams
from edgekd.stages.base import RunContext, StageResult
from edgekd.stages.converted import conclude, normalization, parity_metrics, predict, read_json, spread, write_json

if TYPE_CHECKING:
    from torch import nn

VERSION = 1
PAYLOAD = ("model.onnx", "model.json", "golden.npz", predictions.FILE)
PARITY_IMAGES = 2000  # test images that torch answers again: seconds on a CPU, and a wrong layer shows in the first


def check(params: GraphParams, context: RunContext) -> None:
    """Raise what can be known before work.

    Raises:
        RecipeError: An operator set that torch's exporter cannot write, or no golden image.
    """
    if params.opset < onnxfile.OPSET:
        raise RecipeError("graph.opset", str(params.opset), f">= {onnxfile.OPSET}, the lowest that torch exports to")
    if params.golden < 1:
        raise RecipeError("graph.golden", str(params.golden), ">= 1")


def run(params: GraphParams, inputs: Mapping[str, Artifact], out: Path, context: RunContext) -> StageResult:
    """Trace, simplify with a proof, check, compare with torch, evaluate.

    Args:
        params: Operator set, simplifier, number of golden images, roles.
        inputs: `data` and `student`.
        out: Where `model.onnx`, `model.json`, `golden.npz`, `predictions.npz` and `parity.json` go.
        context: Console and threads.

    Raises:
        CheckFailed: The graph does not answer as torch does, or the simplifier changed it.
        RecipeError: The student was made for other classes or images.
        StageFailed: The graph cannot be made.
    """
    from edgekd.stages import evaluate, simplification, tracing  # torch and onnxsim: not before there is work

    data = evaluate.open_data(inputs["data"], params.roles)
    network, _, _ = evaluate.read_network(inputs["student"], data)
    facts = {**read_json(inputs["student"].path / "model.json"), "opset": params.opset, "scheme": "none"}
    norm = normalization(facts)
    golden = np.asarray(data.arrays.images("train").images[calibration.golden_rows(data.arrays, params.golden)])
    context.console.log(f"graph: tracing {facts['model']} to ONNX, operator set {params.opset}")
    traced = tracing.trace(network.float().eval(), facts["channels"], (facts["height"], facts["width"]), params.opset)
    model, effect = simplification.simplify(onnxfile.strip(traced), params.simplify, normalize.apply(golden, *norm))
    onnxfile.set_metadata(model, describe(facts, inputs["student"].id, inputs["student"].digest))
    onnxfile.check(model, "graph", params.opset)
    path = onnxfile.save(model, out / "model.onnx")
    write_json(out / "model.json", facts)

    reports = _compare(network, path, golden, data.arrays.images("test"), norm, out, context.threads)
    conclude(out, "graph", "torch", reports, context, simplify=asdict(effect))
    answers, _ = predict(path, data.arrays, norm, context)
    predictions.save(out, answers)
    metrics = {
        **predictions.summarize(answers),
        **parity_metrics(reports["test"]),
        "nodes_before": effect.nodes_before,
        "nodes_after": effect.nodes_after,
        "bytes_before": effect.bytes_before,
        "bytes_after": effect.bytes_after,
        "file_bytes": path.stat().st_size,
        "parameters": facts["parameters"],
        "macs": facts["macs"],
    }
    return StageResult(metrics, PAYLOAD)


def _compare(
    network: nn.Module,
    path: Path,
    golden: Images,
    test: Split,
    norm: normalize.Statistics,
    out: Path,
    threads: int,
) -> dict[str, ParityReport]:
    """What the file answers against what torch answers, on golden and test images; writes `golden.npz` with torch's logits."""
    from edgekd.fit.evaluate import evaluate as torch_logits
    from edgekd.fit.process import own_threads

    shown = {"golden": (golden, np.arange(len(golden))), "test": (test.images, spread(test.rows, PARITY_IMAGES))}
    with own_threads(threads):
        wanted = {name: torch_logits(network, *chosen, *norm) for name, chosen in shown.items()}
    np.savez(out / "golden.npz", images=golden, logits=wanted["golden"])
    found = {name: evaluate_onnx(path, *chosen, *norm, threads) for name, chosen in shown.items()}
    return {name: fp32_parity(wanted[name], found[name]) for name in shown}


def describe(facts: Mapping[str, Any], source: str, digest: str) -> dict[str, str]:
    """What the file says of itself: enough to use it with no other file at hand; made from `source` of SHA-256 `digest`."""
    return {
        "version": edgekd.__version__,
        "source": source,
        "source_digest": digest,
        "model": str(facts["model"]),
        "scheme": str(facts["scheme"]),
        "classes": json.dumps(facts["classes"], ensure_ascii=False),
        "input": "float32 [batch, channels, height, width]; RGB order when 3 channels; (pixel / 255 - mean) / std",
        "input_shape": json.dumps([facts["channels"], facts["height"], facts["width"]]),
        "mean": json.dumps(facts["normalize"]["mean"]),
        "std": json.dumps(facts["normalize"]["std"]),
        "output": "float32 [batch, classes]; logits, no softmax",
    }
