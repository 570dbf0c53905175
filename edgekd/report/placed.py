"""Where a tool chain's compiler placed a network's operators, and what it estimates: read from an export's metrics and `placement.json`.

None of these figures was measured: each says who gives it, and none stands in a chart of latencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekd.report.folder import Folder
from edgekd.report.schema import Operator, Placed
from edgekd.report.words import NONE

TITLE = "placement: where a target's compiler puts the operators; time and memory are estimates of it, not measured"
UNITS = {"npu": "NPU", "xnnpack": "XNNPACK"}  # as the metrics name what takes the operators -> as `placement.json` does
COLUMNS = ("target", "taken", "falls back", "estimated ms", "cycles", "MHz", "SRAM KiB", "flash, DRAM KiB", "as")
NUMERIC = COLUMNS[1:2] + COLUMNS[3:8]


def placed(name: str, folder: Folder) -> Placed | None:
    """The placement of an export; None where its compiler places nothing."""
    metrics, told = folder.metrics, folder.json("placement.json") or {}
    own = next((key for key in UNITS if metrics.get(f"{key}_coverage") is not None), None)
    if own is None:
        return None
    rest = metrics.get("n_cpu_operators", metrics.get("n_other_operators", 0))
    layers = told.get("layers") or []
    return Placed(
        step=name,
        kind=str(told.get("kind") or "the compiler's count"),
        unit=UNITS[own],
        coverage_percent=100 * float(metrics[f"{own}_coverage"]),
        npu_operators=int(metrics.get(f"n_{own}_operators", 0)),
        cpu_operators=int(rest),
        fell_back=str(metrics.get("fell_back") or ""),
        estimated_ms=metrics.get("estimated_inference_ms"),
        cycles=metrics.get("estimated_cycles"),
        clock_mhz=metrics.get("clock_mhz"),
        sram_bytes=metrics.get("sram_bytes"),
        other_bytes=_sum(metrics.get("dram_bytes"), metrics.get("flash_bytes")),
        settings=_settings(told.get("settings") or {}),
        note=str(metrics.get("accuracy_note") or metrics.get("accuracy_of") or ""),
        operators=tuple(_operator(row) for row in layers if isinstance(row, dict)),
    )


def cells(row: Placed) -> tuple[str, ...]:
    """One target in the order of COLUMNS."""
    return (
        row.step,
        f"{row.npu_operators} of {row.npu_operators + row.cpu_operators} by {row.unit} ({row.coverage_percent:.1f} %)",
        row.fell_back or ("not named" if row.cpu_operators else "none"),
        NONE if row.estimated_ms is None else f"{row.estimated_ms:.3f}",
        NONE if row.cycles is None else f"{row.cycles:,}",
        NONE if row.clock_mhz is None else f"{row.clock_mhz:g}",
        NONE if row.sram_bytes is None else f"{row.sram_bytes / 1024:.1f}",
        NONE if row.other_bytes is None else f"{row.other_bytes / 1024:.1f}",
        f"{row.kind}; {row.settings}" if row.settings else row.kind,
    )


def notes(rows: Sequence[Placed]) -> list[str]:
    """What the accuracy of which targets rests on, each sentence once."""
    of: dict[str, list[str]] = {}
    for row in rows:
        of.setdefault(row.note, []).append(row.step)
    return [f"accuracy of {', '.join(steps)}: {note}" for note, steps in of.items() if note]


def _operator(row: dict[str, Any]) -> Operator:
    return Operator(
        operator=str(row.get("operator", "?")),
        place=str(row.get("place", "?")),
        cycles=None if row.get("cycles") is None else int(row["cycles"]),
        name=str(row.get("name", "")),
    )


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(str(settings[key]) for key in ("system_config", "memory_mode") if settings.get(key))


def _sum(*parts: int | None) -> int | None:
    known = [part for part in parts if part is not None]
    return sum(known) if known else None
