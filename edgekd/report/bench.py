"""One bench artifact -> latency facts: the numbers of a valid measurement, the reason of a void one."""

from __future__ import annotations

from typing import Any

from edgekd.report.evaluated import histogram
from edgekd.report.folder import Folder, flat
from edgekd.report.schema import Latency, Number

PARTS = ("end_to_end_ns", "inference_ns", "preprocess_ns")  # in the order shown
ELSEWHERE = (
    "schema_version",
    "latency",
    "accuracy",
    "offline",
    "verdict",
    "reasons",
)  # keys of result.json shown otherwise
MACHINE_ROWS = 80  # what is longer belongs in result.json


def latency(name: str, folder: Folder) -> Latency:
    """The latency facts of one bench step; name: `bench/<target>@<device>`."""
    result: dict[str, Any] = folder.json("result.json") or {}
    metrics = folder.metrics
    target, _, device = name.partition("/")[2].partition("@")
    verdict = str(metrics.get("verdict", result.get("verdict", "valid")))
    void = verdict == "void"
    arrays = {} if void else folder.arrays("samples.npz") or {}
    parts = [part for part in PARTS if part in arrays and arrays[part].size]
    n = int(arrays[parts[0]].size) if parts else None
    machine = [row for key in sorted(set(result) - set(ELSEWHERE)) for row in flat(result[key], key)]
    return Latency(
        step=name,
        artifact=folder.artifact.id,
        target=target,
        device=device,
        state="void" if void else "ok",
        verdict=verdict,
        reasons=tuple(map(str, metrics.get("reasons", result.get("reasons", ())))),
        p50_ms=None if void else _number(metrics, "latency_p50", n),
        p90_ms=None if void else _number(metrics, "latency_p90", n),
        throughput_per_s=None if void else metrics.get("throughput_per_s"),
        throughput_batch=metrics.get("throughput_batch"),
        histograms=tuple(histogram(part.removesuffix("_ns"), arrays[part]) for part in parts),
        machine=tuple(machine[:MACHINE_ROWS]),
    )


def _number(metrics: dict[str, Any], name: str, n: int | None) -> Number | None:
    value = metrics.get(f"{name}_ms")
    if value is None:
        return None
    low, high = metrics.get(f"{name}_low_ms"), metrics.get(f"{name}_high_ms")
    return Number(value=value, low=low, high=high, n=metrics.get("n_latency", n))
