"""One bench artifact -> latency facts: the numbers of a valid measurement, the reason of a void one."""

from __future__ import annotations

from typing import Any

from edgekd.report.evaluated import histogram
from edgekd.report.folder import Folder, flat
from edgekd.report.schema import Latency, Number, Power
from edgekd.runner.bundle import REAL

INFERENCE = (
    "host_to_device_ns",
    "compute_ns",
    "device_to_host_ns",
)  # what it consists of, where the engine times it apart
PARTS = ("end_to_end_ns", "preprocess_ns", "inference_ns", *INFERENCE, "postprocess_ns")  # in the order shown
# Keys of result.json that are shown otherwise.
ELSEWHERE = {
    "schema_version",
    "latency",
    "parts",
    "accuracy",
    "offline",
    "verdict",
    "reasons",
    "kind",
    "power",
    "identity",
}
MACHINE_ROWS = 80  # what is longer belongs in result.json


def latency(name: str, folder: Folder) -> Latency:
    """The latency facts of one bench step; name: `bench/<target>@<device>`."""
    result: dict[str, Any] = folder.json("result.json") or {}
    metrics = folder.metrics
    target, _, device = name.partition("/")[2].partition("@")
    verdict = str(metrics.get("verdict", result.get("verdict", "valid")))
    kind = str(metrics.get("kind", result.get("kind", REAL[0])))
    void = verdict == "void"
    timed = not void and kind in REAL
    arrays = folder.arrays("samples.npz") or {} if timed else {}
    parts = [part for part in PARTS if part in arrays and arrays[part].size]
    n = int(arrays[parts[0]].size) if parts else None
    machine = [row for key in sorted(set(result) - ELSEWHERE) for row in flat(result[key], key)]
    return Latency(
        step=name,
        artifact=folder.artifact.id,
        target=target,
        device=device,
        state="void" if void else "ok",
        verdict=verdict,
        reasons=tuple(map(str, metrics.get("reasons", result.get("reasons", ())))),
        kind=kind,
        p50_ms=_number(metrics, "latency_p50", n) if timed else None,
        p90_ms=_number(metrics, "latency_p90", n) if timed else None,
        power=_power(result) if timed else None,
        throughput_per_s=metrics.get("throughput_per_s") if timed else None,
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


def _power(result: dict[str, Any]) -> Power | None:
    """What was measured of power; the words of a refusal where there is no figure; None where no probe was asked for."""
    found = result.get("power") or {}
    if not found:
        return None
    energy = found.get("energy_mj")
    span = (found.get("energy_low_mj"), found.get("energy_high_mj"), found.get("n_updates"))
    return Power(
        probe=str(found.get("probe")),
        total=str(found.get("total", "")),
        rails=tuple(found.get("rails", {})),
        energy_mj=None if energy is None else Number(value=energy, low=span[0], high=span[1], n=span[2]),
        mean_mw=found.get("mean_mw"),
        idle_mw=found.get("idle_mw"),
        refused=found.get("refused"),
        note=str(found.get("note", "")),
    )
