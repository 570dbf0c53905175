"""Accuracy, latency and energy of measured files: which of them another one beats beyond doubt.

A file is dominated only where another one is better on every axis that both have, by intervals that do not touch (or is exactly
equal on it, as the same answers are), and better on one at least; latencies by 3 % more than that. What overlaps is not ranked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact
from edgekd.runner.bundle import REAL

AXES = ("top1_percent", "p50_ms", "energy_mj")
# Two processes of one file were seen to differ by 2.5 %, which the interval of one of them does not hold.
PROCESSES = 1.03
HIGHER = {"top1_percent"}  # is better; of the others, lower is
COLUMNS = ("file", "runtime", "top-1 % [95 %]", "p50 ms [95 %]", "energy mJ [95 %]", "verdict", "")


@dataclass(frozen=True)
class Value:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """One measured file.

    Attributes:
        group: What must be the same for two to be compared: device, chip, threads, kind.
        axes: Its figures by axis; energy is there only where it was measured.
    """

    artifact: str
    name: str
    group: tuple[str, str, int, str]
    runtime: str
    verdict: str
    axes: Mapping[str, Value]


@dataclass(frozen=True)
class Left:
    """A measurement that is not compared, and why."""

    artifact: str
    why: str


def point(bench: Artifact) -> Point | Left:
    """One bench artifact as a point, or why it is none."""
    metrics, params = bench.metrics, bench.manifest["params"]
    result = _result(bench.path / "result.json")
    kind = str(metrics.get("kind") or result.get("kind") or REAL[0])
    verdict = str(metrics.get("verdict", ""))
    axes = {"top1_percent": _value(metrics, "top1_percent", "top1_low_percent", "top1_high_percent")}
    axes["p50_ms"] = _value(metrics, "latency_p50_ms", "latency_p50_low_ms", "latency_p50_high_ms")
    axes["energy_mj"] = _value(result.get("power") or {}, "energy_mj", "energy_low_mj", "energy_high_mj")
    missing = [axis for axis in AXES[:2] if axes[axis] is None]
    why = (
        "void" if verdict == "void" else kind if kind not in REAL else f"no interval of {missing[0]}" if missing else ""
    )
    if why:
        return Left(bench.id, why)
    chip = str(bench.manifest.get("environment", {}).get("chip", ""))
    place = bench.step.partition("@")[2] or str(params["device"])
    return Point(
        artifact=bench.id,
        name=f"{params['target']} {bench.path.name}",
        group=(place, chip, int(params.get("threads", 1)), kind),
        runtime=str(metrics.get("runtime", params["runtime"])),
        verdict=verdict,
        axes={axis: value for axis, value in axes.items() if value is not None},
    )


def groups(points: Iterable[Point]) -> list[dict[str, Any]]:
    """One table for each device, chip, number of threads and kind: points from fast to slow, each with who dominates it."""
    found: dict[tuple[str, str, int, str], list[Point]] = {}
    for one in points:
        found.setdefault(one.group, []).append(one)
    return [_group(group, found[group]) for group in sorted(found)]


def dominates(a: Point, b: Point) -> bool:
    """Whether a is better than b beyond doubt; where one has no energy figure and the other has, nobody can say so."""
    if set(a.axes) != set(b.axes):
        return False
    better = [_better(axis, a.axes[axis], b.axes[axis]) for axis in a.axes]
    equal = [a.axes[axis] == b.axes[axis] for axis in a.axes]
    return any(better) and all(one or same for one, same in zip(better, equal, strict=True))


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One row of a group as texts in the order of COLUMNS."""
    forms = {"top1_percent": ".2f", "p50_ms": ".4f", "energy_mj": ".3f"}
    figures = [_words(row["axes"].get(axis), forms[axis]) for axis in AXES]
    by = row["dominated_by"]
    return row["name"], row["runtime"], *figures, row["verdict"], f"dominated by {', '.join(by)}" if by else "front"


def reasons(left: Sequence[Left]) -> dict[str, int]:
    """{why: how many were left out}."""
    names = [one.why for one in left]
    return {name: names.count(name) for name in dict.fromkeys(names)}


def _group(group: tuple[str, str, int, str], points: Sequence[Point]) -> dict[str, Any]:
    ordered = sorted(points, key=lambda one: (one.axes["p50_ms"].value, one.artifact))
    rows = [
        {**asdict(one), "dominated_by": [other.name for other in ordered if dominates(other, one)]} for one in ordered
    ]
    without = sum("energy_mj" not in one.axes for one in points)
    return {
        "device": group[0],
        "chip": group[1],
        "threads": group[2],
        "kind": group[3],
        "without_energy": without,
        "points": rows,
        "front": [row["name"] for row in rows if not row["dominated_by"]],
    }


def _better(axis: str, a: Value, b: Value) -> bool:
    if axis in HIGHER:
        return a.low > b.high
    return a.high * (PROCESSES if axis == "p50_ms" else 1) < b.low


def _value(facts: Mapping[str, Any], *names: str) -> Value | None:
    values = [facts.get(name) for name in names]
    return None if any(value is None for value in values) else Value(*(float(str(value)) for value in values))


def _words(value: Mapping[str, float] | None, form: str) -> str:
    if value is None:
        return ""
    return f"{value['value']:{form}} [{value['low']:{form}}, {value['high']:{form}}]"


def _result(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found
