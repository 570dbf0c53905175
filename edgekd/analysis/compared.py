"""The table of a comparison, from the artifacts of its students: plain data, as in its JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from edgekd import predictions
from edgekd.analysis.compare import Difference, holm, paired, verdict
from edgekd.artifact import Artifact
from edgekd.comparison import Comparison, Method

Runs = Mapping[str, Mapping[int, Artifact]]  # method label -> seed -> student
HISTORY = "history.json"


def table(comparison: Comparison, runs: Runs, teacher: Artifact | None) -> list[dict[str, Any]]:
    """One row a method, in the order of the comparison.

    Args:
        comparison: What was compared.
        runs: Every student of it.
        teacher: For the agreement of students that learned from labels alone; None where there is none.

    Raises:
        IntegrityError: A file of an artifact is damaged.
    """
    found = differences(comparison, runs)
    return [_row(comparison, method, runs[method.label], teacher, found[method.label]) for method in comparison.methods]


def differences(comparison: Comparison, runs: Runs) -> dict[str, list[dict[str, Any]]]:
    """Of each method: its paired differences to its references, over the seeds that both have been made with.

    Those to one reference, and those to baselines of the methods' own, are corrected for their number apart. A row that
    nobody asked for makes no claim: it is not counted and gets no verdict.
    """
    rows: dict[str, list[dict[str, Any]]] = {method.label: [] for method in comparison.methods}
    families: dict[str, list[tuple[str, str, Difference]]] = {}
    for method in comparison.methods:
        for label in comparison.references(method):
            found = over_seeds(comparison.seeds, runs[method.label], runs[label])
            if found is not None and method.asked:
                family = label if label in (comparison.plain, comparison.usual) else ""
                families.setdefault(family, []).append((method.label, label, found))
            elif found is not None:
                rows[method.label].append(_difference(label, found))
    for claims in families.values():
        for label, claim in _claimed(claims):
            rows[label].append(claim)
    order = {method.label: comparison.references(method) for method in comparison.methods}
    return {label: sorted(rows[label], key=lambda row: order[label].index(row["to"])) for label in rows}


def over_seeds(seeds: Sequence[int], ours: Mapping[int, Artifact], theirs: Mapping[int, Artifact]) -> Difference | None:
    """The paired difference over the seeds that both have been made with; None where there is none."""
    both = [seed for seed in seeds if seed in ours and seed in theirs]
    if not both:
        return None
    return paired(top1(ours, both), top1(theirs, both), 100.0 / int(theirs[both[0]].metrics["n_test"]))


def _claimed(claims: Sequence[tuple[str, str, Difference]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(method, its difference with a verdict) of all claims of one family (method, reference, difference)."""
    chances = [found.p for *_, found in claims if found.p is not None]
    corrected = holm(chances) if len(chances) == len(claims) else [None] * len(claims)
    for (label, reference, found), chance in zip(claims, corrected, strict=True):
        said = verdict(found, chance, reference, len(claims))
        yield label, {**_difference(reference, found), "p_holm": chance, "comparisons": len(claims), "verdict": said}


def top1(made: Mapping[int, Artifact], seeds: Sequence[int]) -> list[float]:
    """Test top-1 in percent, one a seed."""
    return [float(made[seed].metrics["top1_percent"]) for seed in seeds]


def seconds_per_epoch(student: Artifact) -> float:
    """Median training time of an epoch: the first one may compile, and others may be disturbed."""
    rows = json.loads((student.path / HISTORY).read_text(encoding="utf-8"))
    return float(median(row["train_seconds"] for row in rows))


def agreement(student: Artifact, teacher: Artifact | None) -> float | None:
    """Part of the test images on which student and teacher answer the same, percent."""
    said = student.metrics.get("teacher_agreement_percent")
    if said is not None or teacher is None:
        return said
    return predictions.agreement_percent(predictions.load(student.path), predictions.load(teacher.path))


def _row(
    comparison: Comparison,
    method: Method,
    made: Mapping[int, Artifact],
    teacher: Artifact | None,
    found: list[dict[str, Any]],
) -> dict[str, Any]:
    seeds = [seed for seed in comparison.seeds if seed in made]
    students = [made[seed] for seed in seeds]
    shares, agreed = top1(made, seeds), [agreement(student, teacher) for student in students]
    known = [share for share in agreed if share is not None]
    validated = [float(s.metrics["val_top1_percent"]) for s in students if "val_top1_percent" in s.metrics]
    last = students[-1].metrics
    return {
        "method": method.label,
        "use": method.use,
        "args": dict(method.args),
        "asked": method.asked,
        "baseline": method.baseline,
        "n": len(seeds),
        "mean_percent": float(np.mean(shares)),
        "sd_pp": float(np.std(shares, ddof=1)) if len(shares) > 1 else None,
        "val_mean_percent": float(np.mean(validated)) if validated else None,
        "differences": found,
        "epoch_seconds": median(map(seconds_per_epoch, students)),
        "method_parameters": last.get("method_parameters"),
        "parameters": last["parameters"],
        "macs": last["macs"],
        "teacher_agreement_percent": float(np.mean(known)) if known else None,
        "runs": [_run(seed, made[seed]) for seed in seeds],
    }


def _run(seed: int, student: Artifact) -> dict[str, Any]:
    names = ("top1_percent", "val_top1_percent", "kept_epoch", "epochs", "train_seconds")
    figures = {name: student.metrics[name] for name in names if name in student.metrics}
    made_on = student.manifest.get("host", {}).get("processor"), student.manifest.get("threads")
    return {"seed": seed, "artifact": student.id, **figures, "processor": made_on[0], "threads": made_on[1]}


def _difference(reference: str, found: Difference) -> dict[str, Any]:
    return {
        "to": reference,
        "n": found.n,
        "mean_pp": found.mean,
        "sd_pp": found.sd,
        "low_pp": found.low,
        "high_pp": found.high,
        "p": found.p,
        "values_pp": list(found.values),
    }
