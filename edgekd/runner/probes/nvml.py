"""NVML: the power of a whole NVIDIA card, through nvidia-ml-py.

Source: NVIDIA Management Library API Reference, nvmlDeviceGetPowerUsage (milliwatts; an average over one second on Ampere and
later, so that its updates are few). Written, not run on hardware: tested with a stand-in of the module.
Needs: nvidia-ml-py (pip install nvidia-ml-py) and NVIDIA's driver.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Dict

from edgekd.runner.failure import MISSING, RunnerError
from edgekd.runner.probes.base import Probe

if TYPE_CHECKING:
    from pathlib import Path

CARD = "card"


class Sensor(Probe):
    """The first card's board power."""

    def __init__(self, rails: Dict[str, str], total: str, root: Path) -> None:
        try:
            self._nvml = importlib.import_module("pynvml")
        except ImportError as error:
            raise RunnerError(
                MISSING, "power: nvml", str(error), "nvidia-ml-py", "python3 -m pip install nvidia-ml-py"
            ) from error
        if set(rails) - {CARD}:
            raise RunnerError(MISSING, "power: rail " + sorted(set(rails) - {CARD})[0], "unknown", CARD)
        try:
            self._nvml.nvmlInit()
            self._card = self._nvml.nvmlDeviceGetHandleByIndex(0)
        except self._nvml.NVMLError as error:
            raise RunnerError(MISSING, "power: nvml", str(error), "a card of NVIDIA with its driver") from error
        self.rails, self.total = {CARD: "whole card"}, CARD
        self.note = "the card alone: the computer around it is not measured"

    def read(self) -> Dict[str, float]:
        """Milliwatts of the card."""
        try:
            return {CARD: float(self._nvml.nvmlDeviceGetPowerUsage(self._card))}
        except self._nvml.NVMLError as error:
            raise RunnerError(MISSING, "power: nvml", str(error), "a reading of the card's power") from error
