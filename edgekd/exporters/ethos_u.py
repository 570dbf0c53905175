"""Arm Ethos-U55, U65, U85: an int8 .tflite file compiled by Vela, with Vela's estimate of its time and memory.

Source: ethos-u-vela 5.2 (Arm) and its bundled `Arm/vela.ini`, whose system configurations and memory modes are those of Arm's
reference systems: a chip of a maker's has its own clock and memory. Needs: the tools litert and ethos-u.
Written, not run on hardware: no Ethos-U was at hand; times and memory are Vela's estimates.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact
from edgekd.exporters import payload
from edgekd.exporters.base import Exporter, Work
from edgekd.params import ExportParams
from edgekd.tools.env import run_worker

MODEL, PLACEMENT = "model.tflite", "placement.json"
BITEXACT = (
    "the int8 TFLite file through LiteRT's kernels on this CPU; the NPU's arithmetic is specified to be that of the reference "
    "kernels, from which the XNNPACK kernels used here differ by single steps of a scale"
)


class EthosU(Exporter):
    """One `model.tflite` whose network is one operator for the NPU; what falls back to the CPU is named.

    Args:
        accelerator: As Vela names it.
        system_config: Section of the configuration file: clock and memories.
        memory_mode: Section of it: what lies in which memory.
        config: The configuration file, one of those that Vela brings.
    """

    VERSION = 1
    files = (MODEL, *payload.FILES, PLACEMENT)
    answers = "source"
    needs = ("litert", "ethos-u")

    def __init__(self, accelerator: str, system_config: str, memory_mode: str, config: str = "Arm/vela.ini") -> None:
        self.settings = {
            "accelerator": accelerator,
            "system_config": system_config,
            "memory_mode": memory_mode,
            "config": config,
        }
        self.found: dict[str, Any] = {}

    def export(self, source: Artifact, out: Path, *, target: ExportParams, work: Work | None = None) -> Path:
        """Compile; write where each operator runs. Its answers are those of the file that it is made from."""
        assert work is not None  # its target names a tool
        facts = payload.read_facts(source, target)
        job = {"source": source.path / MODEL, "model": out / MODEL, **self.settings}
        said = run_worker("ethos-u", job, out, where=work.where, console=work.console, threads=work.threads)
        layers = said.pop("layers")
        fallen = [f"{row['operator']} ({row['name']})" for row in layers if row["place"] != "NPU"]
        on_cpu = max(said["cpu_operators"], len(fallen))  # Vela's count and its table: neither may hide what falls back
        total = on_cpu + said["npu_operators"]
        coverage = said["npu_operators"] / total if total else 0.0
        reasons = said.pop("reasons")
        record = {"kind": "estimated by Vela", "settings": self.settings, "layers": layers, "reasons": reasons, **said}
        (out / PLACEMENT).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        self.found = {
            "npu_coverage": coverage,
            "n_npu_operators": said["npu_operators"],
            "n_cpu_operators": on_cpu,
            "fell_back": ", ".join(fallen),
            "estimated_by": f"Vela {said['vela']}",
            "estimated_inference_ms": said["inference_ms"],
            "estimated_cycles": said["cycles"],
            "clock_mhz": said["clock_mhz"],
            **{name: said[name] for name in ("sram_bytes", "dram_bytes", "flash_bytes")},
            **self.settings,
            "accuracy_note": BITEXACT,
        }
        payload.write_facts(out, facts, target, MODEL)
        shutil.copyfile(source.path / payload.GOLDEN, out / payload.GOLDEN)
        self._say(work, coverage, fallen)
        return out / MODEL

    def _say(self, work: Work, coverage: float, fallen: list[str]) -> None:
        found = self.found
        work.console.log(
            f"{work.where}: estimated by Vela for {found['accelerator']}, {found['system_config']} at {found['clock_mhz']:g} MHz, "
            f"{found['memory_mode']}: {found['estimated_inference_ms']:.3f} ms, {found['estimated_cycles']:,} cycles, "
            f"SRAM {found['sram_bytes'] / 1024:.1f} KiB"
        )
        where = f": {', '.join(fallen)} on the CPU" if fallen else ""
        work.console.log(f"{work.where}: {100 * coverage:.1f} % of operators on the NPU{where}")
