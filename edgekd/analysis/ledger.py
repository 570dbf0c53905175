"""The accuracy ledger: what each step of a chain is worth on test, and what it lost since the step before and since the student."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgekd import stats
from edgekd.analysis.gate import KINDS, Judged, allowance, answering, kind, origin, routes
from edgekd.analysis.losses import Loss, answers, comparable, loss
from edgekd.artifact import Artifact
from edgekd.predictions import Predictions
from edgekd.recipe import Gate

ORDER = ("data", "views", "teacher", "student", "qat", "program", "graph", "quantized", "export", "bench")
SHOWN = ("teacher", "student", *KINDS)
OTHER_IMAGES = "answered other test images: not compared"


def ledger(artifacts: Mapping[str, Artifact], gate: Gate | None) -> list[dict[str, Any]]:
    """One row a step that was evaluated on test, in the order of the chain: each file is followed by what was made of it.

    Args:
        artifacts: {step: artifact} of one chain.
        gate: What its recipe demands; evaluated here, on the same answers.

    Returns:
        Plain JSON values: `step`, `artifact`, `top1_percent` {value, low, high, n} with the 95 % Wilson interval, `previous`
        and `origin` (see `Loss.figures`; None where there is none), `gate` (see `Judged.figures`; None: none is demanded of
        this step), `verdict` in words.

    Raises:
        IntegrityError: Stored answers are damaged.
    """
    made_from = _made_from(artifacts)
    gate = None if gate is None else gate.budgeted
    found = {name: told for name in made_from if _counts(name, artifacts[name]) and (told := answers(artifacts[name]))}
    ways, start = routes(made_from, answering(artifacts)), origin(made_from)
    before = {name: _previous(name, made_from, found) for name in found}
    return [
        _row(name, artifacts[name], found, before[name], start if name in ways else None, gate, ways.get(name, ()))
        for name in _along(before)
    ]


def failed(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows that a gate fails."""
    return [row for row in rows if row["gate"] is not None and not row["gate"]["passed"]]


def _row(
    name: str,
    artifact: Artifact,
    found: Mapping[str, Predictions],
    previous: str | None,
    start: str | None,
    gate: Gate | None,
    way: Sequence[str],
) -> dict[str, Any]:
    told = found[name]
    right, n = int(told.right.sum()), len(told.row)
    low, high = stats.wilson(right, n)
    since_previous, since_start = _loss(previous, name, found), _loss(start, name, found)
    judged = None
    if gate is not None and start is not None:
        budget, key = allowance(gate, way)
        unknown = {"passed": False, "budget_pp": budget, "key": key, "to": start}
        unknown |= {"text": f"FAILED: {OTHER_IMAGES}", "hint": "run the whole chain again"}
        judged = Judged(name, artifact.id, budget, key, since_start, "qat" in way).figures() if since_start else unknown
    return {
        "step": name,
        "artifact": artifact.id,
        "top1_percent": {"value": 100.0 * right / n, "low": 100.0 * low, "high": 100.0 * high, "n": n},
        "previous": since_previous.figures() if since_previous else None,
        "origin": since_start.figures() if since_start else None,
        "gate": judged,
        "verdict": _verdict(previous, start, since_previous, since_start) + _by(artifact),
    }


def _by(artifact: Artifact) -> str:
    """Who answered for a file that a tool chain made: what its answers are worth."""
    by = artifact.metrics.get("answered_by")
    return f" [{by}]" if by else ""


def _verdict(previous: str | None, start: str | None, since_previous: Loss | None, since_start: Loss | None) -> str:
    if since_start is not None:
        return since_start.verdict
    if start is not None or (previous is not None and since_previous is None):
        return OTHER_IMAGES
    return "" if since_previous is None else f"{since_previous.verdict} (against the {since_previous.to})"


def _loss(before: str | None, name: str, found: Mapping[str, Predictions]) -> Loss | None:
    """None where there is nothing before it, or it saw other images."""
    if before is None or before not in found or not comparable(found[before], found[name]):
        return None
    return loss(before, found[before], found[name])


def _made_from(artifacts: Mapping[str, Artifact]) -> dict[str, list[str]]:
    """{step: steps of the chain that it was made from}, upstream first."""
    ordered = sorted(artifacts, key=lambda name: (ORDER.index(kind(name)) if kind(name) in ORDER else len(ORDER), name))
    return {
        name: [step for id in artifacts[name].inputs.values() if (step := id.rpartition("/")[0]) in artifacts]
        for name in ordered
    }


def _counts(name: str, artifact: Artifact) -> bool:
    return kind(name) in SHOWN


def _previous(name: str, made_from: Mapping[str, Sequence[str]], found: Mapping[str, Predictions]) -> str | None:
    """The nearest step upstream that was evaluated; of several inputs the one that is furthest along the chain."""
    order = list(made_from)
    for parent in sorted(made_from[name], key=order.index, reverse=True):
        nearest = parent if parent in found else _previous(parent, made_from, found)
        if nearest is not None:
            return nearest
    return None


def _along(before: Mapping[str, str | None], start: str | None = None) -> Iterator[str]:
    """Steps depth first: a file, what was measured of it, then what was made of it."""
    children = [name for name, parent in before.items() if parent == start]
    for name in sorted(children, key=lambda name: kind(name) != "bench"):
        yield name
        yield from _along(before, name)
