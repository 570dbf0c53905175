"""Whether a step that was made again came out the same, within noise, or different, by a tolerance stated beforehand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgekd import predictions
from edgekd.artifact import Artifact

Answer = Literal["same", "within noise", "different", "not judged"]
ERRORS = 2.0  # standard errors of the paired difference
CONDITIONS = ("system", "machine", "processor")  # of the host: they choose the kernels that sums are made by


@dataclass(frozen=True)
class Tolerance:
    """What is allowed, said before the run.

    Attributes:
        latency_ratio: Largest ratio of two medians, either way; > 1.
        standard_errors: Of the paired difference in top-1 on the same test images.
    """

    latency_ratio: float
    standard_errors: float = ERRORS

    def lines(self, unlike: Sequence[str]) -> list[str]:
        """The rule in words; `unlike`: in what the conditions differ from the recorded ones."""
        exact = "expected of every step: versions, threads, processor and device kind are the recorded ones"
        bytes_ = f"not expected: {'; '.join(unlike)}" if unlike else exact
        return [
            f"same: equal digests ({bytes_})",
            f"within noise: where equal digests are not expected, top-1 within {self.standard_errors:g} standard errors "
            "of the paired difference on the same test images",
            f"latency: medians within a ratio of {self.latency_ratio:g} either way",
            "different: anything else (exit 3)",
        ]


@dataclass(frozen=True)
class Judged:
    """The answer on one step, and why."""

    step: str
    recorded: str
    again: str
    answer: Answer
    why: str


def unlike(recorded: Mapping[str, Any], versions: Mapping[str, str], host: Mapping[str, str]) -> list[str]:
    """In what this machine is another than the one of a manifest, as far as it may change bytes."""
    old: Mapping[str, Any] = recorded.get("versions", {})
    found = [f"{name} {old[name]} -> {versions.get(name)}" for name in old if old[name] != versions.get(name)]
    there: Mapping[str, Any] = recorded.get("host", {})
    return found + [
        f"{name} {there[name]} -> {host.get(name)}"
        for name in CONDITIONS
        if name in there and there[name] != host[name]
    ]


def judge(old: Artifact, new: Artifact, exact: bool, tolerance: Tolerance, notes: Sequence[str] = ()) -> Judged:
    """Compare one step with itself.

    Args:
        old: As recorded.
        new: As made again.
        exact: Equal bytes are expected: same conditions, same parameters, same inputs.
        tolerance: What is allowed else.
        notes: What to say beside it, such as a stage of another version.
    """
    equal = old.digest == new.digest
    answer: Answer = "same"
    words = ["equal bytes" if equal else "other bytes", *notes]
    if not equal and exact:
        answer, words = "different", ["other bytes, and equal ones were expected", *notes]
    elif not equal:
        answer, said = _answers(old, new, tolerance)
        words.append(said)
    if old.step.startswith("bench/"):
        within, said = _latency(old, new, tolerance)
        answer = ("within noise" if answer == "same" else answer) if within else "different"
        words.append(said)
    return Judged(old.step, old.id, new.id, answer, "; ".join(words))


def overall(judged: Sequence[Judged]) -> Answer:
    """The worst of all; other bytes that nothing behind them judges are different."""
    answers = [item.answer for item in judged]
    if "different" in answers or set(answers) == {"not judged"} or answers[-1] == "not judged":
        return "different"
    return "within noise" if "within noise" in answers or "not judged" in answers else "same"


def _answers(old: Artifact, new: Artifact, tolerance: Tolerance) -> tuple[Answer, str]:
    """Top-1 of both on the same test images."""
    if not (old.path / predictions.FILE).is_file():
        return "not judged", "judged by what is made from it"
    a, b = (predictions.load(artifact.path).of("test") for artifact in (old, new))
    if not (np.array_equal(a.row, b.row) and np.array_equal(a.label, b.label)) or not len(a.row):
        return "different", "other test images"
    lost, gained, n = int(np.sum(a.right & ~b.right)), int(np.sum(~a.right & b.right)), len(a.row)
    error = math.sqrt(lost + gained - (lost - gained) ** 2 / n) / n
    drop = (lost - gained) / n
    within = abs(drop) <= tolerance.standard_errors * error
    said = f"top-1 {-100 * drop:+.2f} points, bound {100 * tolerance.standard_errors * error:.2f} (n={n})"
    return ("within noise" if within else "different"), said


def _latency(old: Artifact, new: Artifact, tolerance: Tolerance) -> tuple[bool, str]:
    before, after = (artifact.metrics.get("latency_p50_ms") for artifact in (old, new))
    if before is None or after is None:
        return True, "no latency to compare"
    chips = [(artifact.manifest.get("environment") or {}).get("chip") for artifact in (old, new)]
    if chips[0] != chips[1]:
        return True, f"p50 {before:.4g} -> {after:.4g} ms on another chip, not compared"
    ratio = after / before
    within = max(ratio, 1 / ratio) <= tolerance.latency_ratio
    return within, f"p50 {before:.4g} -> {after:.4g} ms, ratio {ratio:.3f}"
