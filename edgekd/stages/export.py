"""Stage `export`: a graph of one scheme -> the files of one target, which keep the rules of its family and answer the golden batch.

Beside the payload lies what was checked of it: `parity.json`, and `lint.json` with the rules of the family, their findings and,
for TensorRT, what TensorRT-RTX made of the file. Both are outside the digest: whether that package is installed changes what is
known of a file, and neither the file nor its name. A file that was exported without it is checked later by `edgekd lint`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import registry
from edgekd.analysis.parity import ParityReport, fp16_parity, fp32_parity, int8_parity
from edgekd.artifact import Artifact
from edgekd.exporters.base import Exporter
from edgekd.lint import base as linter
from edgekd.onnxrun import evaluate_onnx
from edgekd.params import ExportParams
from edgekd.stages import toolchain
from edgekd.stages.base import RunContext, StageResult
from edgekd.stages.converted import conclude, normalization, parity_metrics, read_json, write_json
from edgekd.tools import place

VERSION = 1
LINT = "lint.json"


def check(params: ExportParams, context: RunContext) -> None:
    """Raise what can be known before work.

    Raises:
        RecipeError: Unknown exporter or argument.
        MissingTool: The exporter's framework, or a tool that it drives, is not installed, or broken.
    """
    for tool in _exporter(params).needs:
        place.require(tool, f"export/{params.target}")


def run(params: ExportParams, inputs: Mapping[str, Artifact], out: Path, context: RunContext) -> StageResult:
    """Write the target's files; an ONNX among them is linted and answers the golden batch again.

    Args:
        params: The target.
        inputs: `source`: what the target is made from; `data` where a tool chain makes it.
        out: Where the files go.
        context: Console and threads.

    Raises:
        CheckFailed: The exported file breaks a rule of its family, TensorRT-RTX refuses it, or it answers the golden batch
            otherwise.
        MissingTool: TensorRT-RTX is installed and broken.
        RecipeError: The source is of another scheme than the target's.
    """
    exporter = _exporter(params)
    if params.tool is not None:
        return toolchain.run(exporter, params, inputs, out, context)
    path = exporter.export(inputs["source"], out, target=params)
    metrics: dict[str, Any] = {"file_bytes": path.stat().st_size}
    if path.suffix == ".onnx":
        metrics |= _linted(path, params, out, context)
        with np.load(inputs["source"].path / "golden.npz", allow_pickle=False) as file:
            images, wanted = file["images"], file["logits"]
        norm = normalization(read_json(inputs["source"].path / "model.json"))
        found = evaluate_onnx(path, images, np.arange(len(images)), *norm, context.threads)
        # a quantized file may meet another CPU than its maker's: one step of a scale is more than float rounding
        verdicts: dict[str, Callable[..., ParityReport]] = {"none": fp32_parity, "fp16": fp16_parity}
        report = verdicts.get(params.scheme, int8_parity)(wanted, found, **params.parity)
        conclude(out, f"export/{params.target}", "the golden batch", {"golden": report}, context)
        metrics |= parity_metrics(report)
    return StageResult(metrics=metrics, payload=exporter.files)


def _linted(path: Path, params: ExportParams, out: Path, context: RunContext) -> dict[str, Any]:
    """Hold the file to its family's rules and tools; `lint.json` and the metrics say which, and what was not checked."""
    where, family = f"export/{params.target}", params.family
    findings = linter.lint(path, family)
    linter.require(findings, where, family)
    for finding in findings:
        context.console.log(f"{where}: warning: {finding.text}")
    proof = linter.prove(path, family, where)
    rules = [rule.id for rule in linter.rules(family)]
    record = {"family": family, "rules": rules, "findings": [finding.record() for finding in findings]}
    write_json(out / LINT, {**record, "tool": proof})
    context.console.log(f"{where}: {linter.summary(family, findings, proof)}")
    metrics: dict[str, Any] = {"n_lint_rules": len(rules), "n_lint_warnings": len(findings)}
    if proof is not None:
        metrics["tool_check"] = linter.proven(proof)
    if proof is not None and proof["checked"]:
        metrics["tool_build_seconds"] = proof["build_seconds"]
    return metrics


def _exporter(params: ExportParams) -> Exporter:
    exporter = registry.construct("exporters", params.exporter, params.args)
    assert isinstance(exporter, Exporter)
    return exporter
