"""An int8 .tflite file -> one for an Ethos-U, by Vela; what Vela says of it is read from what it prints and writes.

Vela ends with exit code 0 although every operator falls back to the CPU, so the counts are read from its output.
Needs: ethos-u-vela.
"""

import csv
import re
import runpy
import sys
from contextlib import redirect_stdout
from importlib import metadata
from io import StringIO
from pathlib import Path

COUNTS = re.compile(r"^(CPU|NPU) operators = (\d+) \(([0-9.]+)%\)", re.MULTILINE)
KIB = 1024


def main(job: dict) -> dict:
    """Write `model`; the counts, the figures of the summary, and where each operator runs."""
    out = Path.cwd() / "vela"
    said = _vela(job, out)
    counts = {place: int(n) for place, n, _ in COUNTS.findall(said)}
    stem = Path(job["source"]).stem
    if set(counts) != {"CPU", "NPU"}:
        raise RuntimeError("Vela did not say how many operators it places:\n" + said[-2000:])
    (compiled,) = out.glob(f"{stem}*_vela.tflite")
    Path(job["model"]).write_bytes(compiled.read_bytes())
    (summary,), (layers,) = (list(out.glob(f"{stem}*{part}")) for part in ("_summary_*.csv", "_per-layer.csv"))
    with summary.open(encoding="utf-8", newline="") as file:
        figures = next(csv.DictReader(file))
    with layers.open(encoding="utf-8", newline="") as file:
        rows = [_row(row) for row in csv.DictReader(file)]
    reasons = re.findall(r"^Warning \(supported operators\) operator: (\w+), ofm: '([^']*)'\nReason: (.*)$", said, re.M)
    return {
        "vela": metadata.version("ethos-u-vela"),
        "cpu_operators": counts["CPU"],
        "npu_operators": counts["NPU"],
        "inference_ms": 1000 * float(figures["inference_time"]),
        "clock_mhz": float(figures["core_clock"]) / 1e6,
        "cycles": int(float(figures["cycles_total"])),
        "npu_cycles": int(float(figures["cycles_npu"])),
        "macs": int(float(figures["nn_macs"])),
        "sram_bytes": round(KIB * float(figures["sram_memory_used"])),
        "dram_bytes": round(KIB * float(figures["dram_memory_used"])),
        "flash_bytes": round(
            KIB * (float(figures["on_chip_flash_memory_used"]) + float(figures["off_chip_flash_memory_used"]))
        ),
        "layers": rows,
        "reasons": [{"operator": a, "name": _short(b), "reason": c} for a, b, c in reasons],
    }


def _vela(job, out):
    """What Vela prints; it is printed again, for the log."""
    config = ["--accelerator-config", job["accelerator"], "--config", job["config"]]
    config += ["--system-config", job["system_config"], "--memory-mode", job["memory_mode"]]
    sys.argv = [
        "vela",
        job["source"],
        *config,
        "--output-dir",
        str(out),
        "--verbose-performance",
        "--show-cpu-operations",
    ]
    said = StringIO()
    code = 0
    with redirect_stdout(said):
        try:
            runpy.run_module("ethosu.vela", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code or 0
    print(said.getvalue())
    if code != 0:
        raise RuntimeError(f"Vela ended with {code}")
    return said.getvalue()


def _row(row):
    """One operator: what it was, what it became, where it runs."""
    return {
        "operator": row["Original Operator"],
        "becomes": row["NNG Operator"],
        "place": row["Target"],
        "cycles": int(float(row["Op Cycles"])),
        "macs": int(float(row["MAC Count"])),
        "name": _short(row["Name"]),
    }


def _short(name):
    """The last part of a converter's name for a tensor."""
    return name.rsplit(";;", 1)[-1].rsplit(".", 1)[-1]
