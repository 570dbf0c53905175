"""`edgekd eval`: what an artifact's stored answers are worth; nothing is run and test is not touched again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgekd import predictions, stats
from edgekd.artifact import Artifact, Store
from edgekd.commands import current, output
from edgekd.errors import CheckFailed, UsageError
from edgekd.predictions import Predictions


def evaluate(
    reference: str | None,
    min_top1: float | None,
    against: str | None,
    max_drop: float | None,
    workspace: Path,
    json: bool,
) -> None:
    """Print top-1, per-class recall and the paired difference; check the bounds given.

    Raises:
        UsageError: The artifact has no predictions, or `--max-drop` has nothing to compare with.
        CheckFailed: A bound is not met.
    """
    if max_drop is not None and against is None:
        raise UsageError(
            "--max-drop",
            "says no baseline",
            "--against ARTIFACT",
            "edgekd eval quantized/u8s8 --against student --max-drop 1",
        )
    artifact = _with_predictions(workspace, reference)
    answers = predictions.load(artifact.path)
    facts: dict[str, Any] = {
        "artifact": artifact.id,
        **predictions.summarize(answers),
        "recall": _recall(answers.of("test"), _classes(workspace, artifact)),
    }
    if against is not None:
        baseline = _with_predictions(workspace, against)
        facts["against"] = _paired(predictions.load(baseline.path).of("test"), answers.of("test"), baseline.id)
    if json:
        output.print_json(facts)
    else:
        _print(facts)
    _check(facts, min_top1, max_drop)
    if not json:
        output.next_command("edgekd report")


def _check(facts: dict[str, Any], min_top1: float | None, max_drop: float | None) -> None:
    if min_top1 is not None and facts["top1_percent"] < min_top1:
        raise CheckFailed(facts["artifact"], f"top-1 {facts['top1_percent']:.2f} %", f"at least {min_top1} %")
    if max_drop is not None and facts["against"]["drop_pp"] > max_drop:
        raise CheckFailed(
            facts["artifact"],
            f"{facts['against']['drop_pp']:.2f} points below {facts['against']['artifact']}",
            f"at most {max_drop}",
        )


def _with_predictions(workspace: Path, reference: str | None) -> Artifact:
    if reference is not None:
        artifact = current.resolve(workspace, reference)
        if not (artifact.path / predictions.FILE).is_file():
            raise UsageError(
                artifact.id,
                "holds no predictions",
                "a teacher, student, graph, quantized or bench artifact",
                "edgekd artifacts ls",
            )
        return artifact
    run = current.require(workspace, "a finished run, or the name of an artifact")
    found = [a for a in current.artifacts(workspace, run).values() if (a.path / predictions.FILE).is_file()]
    if not found:
        raise UsageError(
            f"workspace {workspace}",
            "the current run has no predictions yet",
            "a trained teacher or student",
            "edgekd run",
        )
    return found[-1]


def _classes(workspace: Path, artifact: Artifact) -> list[str]:
    import json

    store = Store(workspace)
    source = artifact
    while "data" not in source.inputs and source.inputs:
        source = store.resolve(next(iter(source.inputs.values())))
    data = store.resolve(source.inputs["data"])
    return list(json.loads((data.path / "data.json").read_text(encoding="utf-8"))["classes"])


def _recall(test: Predictions, classes: list[str]) -> list[dict[str, Any]]:
    rows = []
    for number, name in enumerate(classes):
        mask = test.label == number
        n, right = int(mask.sum()), int(test.right[mask].sum())
        low, high = stats.wilson(right, n) if n else (0.0, 1.0)
        rows.append(
            {
                "class": name,
                "recall_percent": 100.0 * right / n if n else None,
                "low_percent": 100.0 * low,
                "high_percent": 100.0 * high,
                "n": n,
            }
        )
    return rows


def _paired(before: Predictions, after: Predictions, name: str) -> dict[str, Any]:
    rows, i, j = np.intersect1d(before.row, after.row, return_indices=True)
    if not len(rows):
        raise UsageError("--against", "shares no test image with the artifact", "two artifacts of one data set")
    drop = stats.paired_drop(before.right[i], after.right[j])
    return {"artifact": name, "n": len(rows), **drop_fields(drop)}


def drop_fields(drop: Any) -> dict[str, float]:
    """A paired drop as percentage points with its 95 % interval."""
    return {"drop_pp": 100.0 * drop.drop, "low_pp": 100.0 * drop.low, "high_pp": 100.0 * drop.high}


def _print(facts: dict[str, Any]) -> None:
    output.say(
        f"{facts['artifact']}: top-1 {facts['top1_percent']:.2f} % "
        f"(95 % interval {facts['top1_low_percent']:.2f} to {facts['top1_high_percent']:.2f}, n={facts['n_test']})"
    )
    if "against" in facts:
        a = facts["against"]
        shown = (
            "no difference shown" if a["low_pp"] <= 0 <= a["high_pp"] else ("worse" if a["drop_pp"] > 0 else "better")
        )
        output.say(
            f"drop against {a['artifact']}: {a['drop_pp']:+.2f} points ({a['low_pp']:+.2f} to {a['high_pp']:+.2f}, same {a['n']} images): {shown}"
        )
    rows = [
        (
            r["class"],
            "-" if r["recall_percent"] is None else f"{r['recall_percent']:.1f}",
            f"{r['low_percent']:.1f} to {r['high_percent']:.1f}",
            r["n"],
        )
        for r in facts["recall"]
    ]
    output.print_table(("class", "recall %", "95 % interval", "n"), rows, right=("recall %", "n"))
