"""The part of stage `export` for targets that a tool chain makes: made, held to its source, and evaluated on val and test there.

What the file answers is compared with what its source answered: the golden batch of a float target with the source's logits, and
every target's test answers with the source's, which are stored in half precision. Its own golden logits travel with it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd import predictions
from edgekd.analysis.parity import ParityReport, fp16_parity, fp32_parity, int8_parity
from edgekd.artifact import Artifact
from edgekd.data import calibration, roles
from edgekd.exporters.base import Exporter, Work
from edgekd.params import ExportParams
from edgekd.predictions import Predictions
from edgekd.profiles import QAT_PARITY
from edgekd.stages.base import RunContext, StageResult
from edgekd.stages.bench_bundle import build_runner
from edgekd.stages.converted import conclude, normalization, parity_metrics, read_json, spread

GOLDEN = "golden.npz"


def run(
    exporter: Exporter, params: ExportParams, inputs: Mapping[str, Artifact], out: Path, context: RunContext
) -> StageResult:
    """Make a target's files, hold them to their source, evaluate them.

    Args:
        exporter: Who makes them.
        params: The target; `tool`, `images`, `roles` and `seed` are set.
        inputs: `source` and `data`.
        out: Where the files go.
        context: Console and threads.

    Raises:
        CheckFailed: It answers too differently from its source.
        MissingTool: A tool is not installed, or broken.
        StageFailed: The tool cannot make it, died, or ran out of memory, disk or time.
    """
    assert params.tool is not None and params.images is not None and params.roles is not None
    assert params.seed is not None  # set with the tool, see `plan`
    source, where = inputs["source"], f"export/{params.target}"
    arrays = roles.split(inputs["data"], params.roles)
    norm = normalization(read_json(source.path / "model.json"))
    rows = calibration.calibration_rows(arrays, params.images, params.seed)
    with tempfile.TemporaryDirectory(dir=out, prefix=".work-") as scratch:
        runner = build_runner(Path(scratch) / "runner.pyz")
        work = Work(context.console, context.threads, where, Path(scratch), runner, arrays, rows, norm, context.resume)
        path = exporter.export(source, out, target=params, work=work)
        metrics: dict[str, Any] = {"file_bytes": path.stat().st_size, "parameters": _facts(source)["parameters"]}
        metrics["macs"] = _facts(source)["macs"]
        if exporter.answers == "own":
            answers, logits = _answers(exporter, path, params.tool, work)
            metrics |= _held(params, source, answers, logits, out, context)
            metrics["answered_by"] = f"{exporter.engine or params.tool}, {params.kind}"
        else:
            answers = predictions.load(source.path)
            metrics["answered_by"] = f"as {source.step}: {source.metrics.get('answered_by', '')}"
    predictions.save(out, answers)
    metrics |= predictions.summarize(answers)
    return StageResult({**metrics, **exporter.found}, (*exporter.files, predictions.FILE))


def _facts(source: Artifact) -> dict[str, Any]:
    return read_json(source.path / "model.json")


def _answers(exporter: Exporter, path: Path, tool: str, work: Work) -> tuple[Predictions, npt.NDArray[np.float32]]:
    """What the file answers for every image of val (when there is one) and test; the test logits before they are rounded."""
    parts, logits = [], np.empty((0, 0), dtype=np.float32)
    for role in ("val", "test"):
        places = _chosen(len(work.arrays.rows[role]), exporter.most_test if role == "test" else None)
        chosen = work.arrays.rows[role][places]
        if len(chosen):
            logits = exporter.answer(path, work.arrays.images(role).images, chosen, tool, work)
            parts.append(Predictions.make(chosen, work.arrays.labels(role)[places], logits, role))
    return Predictions.join(parts), logits


def _chosen(n: int, most: int | None) -> npt.NDArray[np.int64]:
    """Places of the images that are answered: all, or so many spread evenly."""
    everything = np.arange(n, dtype=np.int64)
    return everything if most is None else spread(everything, most)


def _held(
    params: ExportParams,
    source: Artifact,
    answers: Predictions,
    logits: npt.NDArray[np.float32],
    out: Path,
    context: RunContext,
) -> dict[str, Any]:
    """The verdict over what the file answers, as metrics."""
    before, test = predictions.load(source.path).of("test"), answers.of("test")
    before = before.at(np.isin(before.row, test.row))
    same = 100.0 * float(np.mean(before.answer == test.answer)) if np.array_equal(before.row, test.row) else None
    if params.scheme == "none":
        with np.load(source.path / GOLDEN) as ours, np.load(out / GOLDEN) as own:
            report = fp32_parity(ours["logits"], own["logits"], **params.parity)
        conclude(out, f"export/{params.target}", source.id, {"golden": report}, context)
        return {**parity_metrics(report), "test_agreement_percent": same}
    verdict: Callable[..., ParityReport] = fp16_parity if params.scheme == "fp16" else int8_parity
    bounds = QAT_PARITY if "qat/" in "".join(source.inputs.values()) else params.parity
    report = verdict(before.logits.astype(np.float32), logits, **bounds)
    hint = "--set quantize.images=N with more of them, or a qat section"
    conclude(out, f"export/{params.target}", source.id, {"test": report}, context, hint=hint)
    return parity_metrics(report)
