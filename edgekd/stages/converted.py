"""What the stages that make an ONNX file share: predictions of a file, and its parity written down and enforced."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.analysis.parity import ParityReport
from edgekd.data.normalize import Statistics
from edgekd.data.roles import RoleArrays
from edgekd.onnxrun import evaluate_onnx
from edgekd.predictions import Predictions
from edgekd.stages.base import RunContext

PARITY = "parity.json"


def normalization(facts: Mapping[str, Any]) -> Statistics:
    """(mean, std) that a network was trained with, from its `model.json`."""
    return tuple(facts["normalize"]["mean"]), tuple(facts["normalize"]["std"])


def predict(
    path: Path, arrays: RoleArrays, norm: Statistics, context: RunContext
) -> tuple[Predictions, npt.NDArray[np.float32]]:
    """What an ONNX file answers for every image of val (when there is one) and test.

    Returns:
        The predictions, and the test logits [n, classes] before they are rounded to float16.
    """
    parts = []
    logits = np.empty((0, 0), dtype=np.float32)
    for role in ("val", "test"):
        rows = arrays.rows[role]
        if len(rows):
            images = arrays.images(role).images
            logits = evaluate_onnx(path, images, rows, *norm, context.threads, console=context.console)
            parts.append(Predictions.make(rows, arrays.labels(role), logits, role))
    return Predictions.join(parts), logits


def conclude(
    out: Path,
    step: str,
    against: str,
    reports: Mapping[str, ParityReport],
    context: RunContext,
    hint: str = "",
    apart: Mapping[str, tuple[str, str]] | None = None,
    **extra: Any,
) -> None:
    """Write `parity.json`, say every verdict, then fail on the first that is bad.

    Args:
        out: Where the file goes.
        step: The step's name.
        against: What the reference is.
        reports: {which images: verdict}.
        context: Console.
        hint: What to type when a bound does not hold.
        apart: {report: (its images, its reference)}, of those that are held to another one.
        **extra: Further plain values to keep in the file.

    Raises:
        CheckFailed: A bound does not hold.
    """
    figures = {name: report.figures() for name, report in reports.items()}
    write_json(out / PARITY, {"against": against, **figures, **extra})
    held = {name: (f"{name} images", against) for name in reports} | dict(apart or {})
    for name, report in reports.items():
        context.console.log(f"{step}: {' against '.join(held[name])}: {report.text}")
    for name, report in reports.items():
        report.require(f"{step}: parity of {' with '.join(held[name])}", hint)


def parity_metrics(report: ParityReport) -> dict[str, Any]:
    """The figures of a verdict that go into a step's metrics."""
    return {
        "agreement_percent": report.agreement_percent,
        "sqnr_db": report.sqnr_db,
        "max_abs_error": report.max_abs_error,
        "error_to_range": report.error_to_range,
        "n_parity": report.n,
    }


def spread(rows: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """At most so many rows, evenly over all (a data set may be sorted by class)."""
    return rows if len(rows) <= most else rows[np.arange(most) * len(rows) // most]


def read_json(path: Path) -> dict[str, Any]:
    """A payload's JSON object."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def write_json(path: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write JSON to be read again: equal values, equal bytes; no NaN."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
