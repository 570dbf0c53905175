"""RAPL: the energy that an x86 processor counts of itself, by the kernel's powercap files.

Source: Linux, Documentation/power/powercap (`energy_uj` counts microjoules and starts again at `max_energy_range_uj`). The files
are root's on most systems: then there is no such sensor. Written, not run on hardware: tested on recorded trees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict

from edgekd.runner.failure import MISSING, RunnerError
from edgekd.runner.probes.base import Probe
from edgekd.runner.readings import number, text

if TYPE_CHECKING:
    from pathlib import Path

PLATFORM = "psys"  # the whole board on some notebooks: the packages are in it, a sum would count them twice
PACKAGES = "intel-rapl:[0-9]*"  # the driver's name on AMD, too


class Sensor(Probe):
    """Energy of each processor package (memory and the rest of the machine are not in it)."""

    counts_energy = True

    def __init__(self, rails: Dict[str, str], total: str, root: Path) -> None:
        folders = [path for path in sorted((root / "sys/class/powercap").glob(PACKAGES)) if path.name.count(":") == 1]
        found = {text(path / "name") or path.name: path for path in folders if number(path / "energy_uj") is not None}
        missing = sorted({*rails, *([total] if total else [])} - set(found))
        if missing or not found:
            seen = ", ".join(found) or ("energy_uj is readable for root alone" if folders else "no powercap folder")
            raise RunnerError(
                MISSING, "power: rapl" + (", rail " + missing[0] if missing else ""), seen, "readable counters"
            )
        self._folders = {
            name: path
            for name, path in found.items()
            if name in rails or name == total or (not rails and name != PLATFORM)
        }
        self.rails = {name: rails.get(name, "processor package") for name in self._folders}
        self.total = total
        self.note = "the processor package alone: memory, disks and screen are not measured"
        self._last: Dict[str, int] = {}
        self._sum: Dict[str, int] = dict.fromkeys(self.rails, 0)

    def read(self) -> Dict[str, float]:
        """Millijoules by package since the first reading."""
        for name, folder in self._folders.items():
            now = number(folder / "energy_uj")
            if now is None:
                raise RunnerError(MISSING, "power: rail " + name, "cannot be read any more", str(folder))
            step = now - self._last.get(name, now)
            if step < 0:  # the counter started again
                step += number(folder / "max_energy_range_uj") or 0
            self._sum[name] += step
            self._last[name] = now
        return {name: value / 1000 for name, value in self._sum.items()}
