"""Stage `export`: a graph of one scheme -> the files of one target, which must still answer the golden batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from edgekd import registry
from edgekd.analysis.parity import ParityReport, fp32_parity, int8_parity
from edgekd.artifact import Artifact
from edgekd.exporters.base import Exporter
from edgekd.onnxrun import evaluate_onnx
from edgekd.params import ExportParams
from edgekd.stages.base import RunContext, StageResult
from edgekd.stages.converted import conclude, normalization, parity_metrics, read_json

VERSION = 1


def check(params: ExportParams, context: RunContext) -> None:
    """Raise what can be known before work.

    Raises:
        RecipeError: Unknown exporter or argument.
        MissingTool: The exporter's framework is not installed.
    """
    _exporter(params)


def run(params: ExportParams, inputs: Mapping[str, Artifact], out: Path, context: RunContext) -> StageResult:
    """Write the target's files; an ONNX among them answers the golden batch again.

    Args:
        params: The target.
        inputs: `source`: the graph or quantized artifact.
        out: Where the files go.
        context: Console and threads.

    Raises:
        CheckFailed: The exported file answers the golden batch otherwise.
        RecipeError: The source is of another scheme than the target's.
    """
    exporter = _exporter(params)
    path = exporter.export(inputs["source"], out, target=params)
    metrics = {"file_bytes": path.stat().st_size}
    if path.suffix == ".onnx":
        with np.load(inputs["source"].path / "golden.npz", allow_pickle=False) as file:
            images, wanted = file["images"], file["logits"]
        norm = normalization(read_json(inputs["source"].path / "model.json"))
        found = evaluate_onnx(path, images, np.arange(len(images)), *norm, context.threads)
        # a quantized file may meet another CPU than its maker's: one step of a scale is more than float rounding
        verdict: Callable[..., ParityReport] = fp32_parity if params.scheme == "none" else int8_parity
        report = verdict(wanted, found, **params.parity)
        conclude(out, f"export/{params.target}", "the golden batch", {"golden": report}, context)
        metrics |= parity_metrics(report)
    return StageResult(metrics=metrics, payload=exporter.files)


def _exporter(params: ExportParams) -> Exporter:
    exporter = registry.construct("exporters", params.exporter, params.args)
    assert isinstance(exporter, Exporter)
    return exporter
