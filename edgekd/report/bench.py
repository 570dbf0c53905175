"""One bench artifact -> latency facts: the numbers of a valid measurement, the reason of a void one."""

from __future__ import annotations

from typing import Any

from edgekd.report.evaluated import histogram
from edgekd.report.folder import Folder, flat
from edgekd.report.schema import Latency, Number

PARTS = ("end_to_end_ns", "inference_ns", "preprocess_ns")  # in the order shown
MEASURED = ("samples", "latency", "predictions", "outputs", "logits")  # figures of result.json that stand elsewhere
MACHINE_ROWS = 80  # what is longer belongs in result.json


def latency(name: str, folder: Folder) -> Latency:
    """The latency facts of one bench step; name: `bench/<target>@<device>`."""
    result: dict[str, Any] = folder.json("result.json") or {}
    metrics = folder.metrics
    target, _, device = name.partition("/")[2].partition("@")
    verdict = str(metrics.get("verdict") or result.get("verdict") or "valid")
    void = not verdict.startswith("valid")
    arrays = {} if void else folder.arrays("samples.npz") or {}
    parts = [part for part in PARTS if part in arrays and arrays[part].size]
    n = int(arrays[parts[0]].size) if parts else None
    reason = result.get("reason") or metrics.get("reason")
    machine = [row for row in flat(result) if row[0].partition(".")[0] not in MEASURED]
    return Latency(
        step=name,
        artifact=folder.artifact.id,
        target=target,
        device=device,
        state="void" if void else "ok",
        verdict=f"void: {reason or verdict}" if void else verdict,
        p50_ms=None if void else _number(metrics, "latency_p50", n),
        p90_ms=None if void else _number(metrics, "latency_p90", n),
        throughput_per_s=None if void else metrics.get("throughput_per_s"),
        histograms=tuple(histogram(part.removesuffix("_ns"), arrays[part]) for part in parts),
        samples_found=tuple(arrays),
        machine=tuple(machine[:MACHINE_ROWS]),
    )


def _number(metrics: dict[str, Any], name: str, n: int | None) -> Number | None:
    value = metrics.get(f"{name}_ms")
    if value is None:
        return None
    count = metrics.get("n_latency", metrics.get("samples", n))
    return Number(value=value, low=metrics.get(f"{name}_low_ms"), high=metrics.get(f"{name}_high_ms"), n=count)
