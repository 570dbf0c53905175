"""INA3221: the three-channel power monitors of Jetson modules, by the kernel's hwmon files.

Source: Linux, Documentation/hwmon/ina3221 (`in1..3_label` the rail, `in1..3_input` millivolts, `curr1..3_input` milliamperes);
Texas Instruments, INA3221 data sheet (it converts channel after channel and shows the last average). Written, not run on
hardware: tested on recorded trees. No part of jetson-stats is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Tuple

from edgekd.runner.failure import MISSING, RunnerError
from edgekd.runner.probes.base import Probe
from edgekd.runner.readings import number, text

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS = ("1", "2", "3")
MODULE = "VDD_IN"  # all other rails of a module draw from it: a sum would count them twice
TRIES = 3  # a busy I2C bus refuses a reading now and then


class Sensor(Probe):
    """Volts times amperes of each labelled channel of every INA3221 there is."""

    def __init__(self, rails: Dict[str, str], total: str, root: Path) -> None:
        self._files = _channels(root)
        named = {*rails, *([total] if total else [])}
        missing = sorted(named - set(self._files))
        if missing or not self._files:
            found = ", ".join(sorted(self._files)) or "no hwmon folder named ina3221"
            raise RunnerError(
                MISSING, "power: rail " + (missing[0] if missing else "of an INA3221"), found, "the sensor"
            )
        self.rails = {rail: rails.get(rail, "") for rail in self._files if rail in named or not named}
        self.total = total or (MODULE if not named and MODULE in self._files else "")
        self.note = "the carrier board is not measured"

    def read(self) -> Dict[str, float]:
        """Milliwatts by rail."""
        found = {}
        for rail in self.rails:
            volts, amperes = self._files[rail]
            found[rail] = _value(rail, volts) * _value(rail, amperes) / 1000
        return found


def _value(rail: str, path: Path) -> int:
    for _ in range(TRIES):
        value = number(path)
        if value is not None:
            return value
    raise RunnerError(MISSING, "power: rail " + rail, "cannot be read any more", str(path))


def _channels(root: Path) -> Dict[str, Tuple[Path, Path]]:
    """{label: (file of millivolts, file of milliamperes)}."""
    found = {}
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if text(folder / "name") == "ina3221":
            for channel in CHANNELS:
                label = text(folder / "in{}_label".format(channel))
                files = folder / "in{}_input".format(channel), folder / "curr{}_input".format(channel)
                if label and all(number(path) is not None for path in files):
                    found[label] = files
    return found
