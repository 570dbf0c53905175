"""The rows of the accuracy ledger as people read them; `edgekd.analysis.ledger` gives the figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.report.words import NONE, signed

COLUMNS = (
    "step",
    "top-1 % [95 %]",
    "n",
    "drop to previous",
    "drop to student",
    "at most",
    "same answers",
    "gate",
    "verdict",
)
NUMERIC = ("n", "drop to previous", "drop to student", "at most", "same answers")
TITLE = "accuracy ledger: what each step lost, on the same test images"
LEGEND = (
    "drop: top-1 points lost on the same images, below 0 = gained; at most: its one-sided 95 % bound against the student; "
    "same answers: part of the images answered as the student does (the student: as its teacher), percent"
)


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One row in the order of COLUMNS."""
    top1, previous, start = row["top1_percent"], row["previous"], row["origin"]
    nearest = start or previous
    return (
        row["step"],
        f"{top1['value']:.2f} [{top1['low']:.2f}, {top1['high']:.2f}]",
        f"{(start or top1)['n']:,}",
        signed(previous["drop_pp"]) if previous else NONE,
        signed(start["drop_pp"]) if start else NONE,
        f"{start['bound_pp']:.3f}" if start else NONE,
        f"{nearest['agreement_percent']:.2f}" if nearest else NONE,
        gate(row),
        row["verdict"],
    )


def gate(row: Mapping[str, Any]) -> str:
    """`passed (1 pp)`; a dash where nothing is demanded."""
    judged = row["gate"]
    return NONE if judged is None else f"{'passed' if judged['passed'] else 'FAILED'} ({judged['budget_pp']:g} pp)"
