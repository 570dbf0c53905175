"""What a power sensor looks like to the runner, and how one is found by name."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Dict, Type

from edgekd.runner.failure import MISSING, RunnerError

KEYS = ("use", "rails", "total")  # of `power` in a device profile


class Probe(ABC):
    """One sensor of this machine. Each file of this folder but this one holds one, called `Sensor`.

    Attributes:
        rails: {rail: what it feeds}.
        total: The rail that the whole board or module draws from; empty: none, their sum stands for it.
        counts_energy: The sensor counts energy itself: two readings give the exact mean between them, and no number of
            updates is asked of it.
        note: What must be said beside the figure.
    """

    rails: Dict[str, str]
    total: str = ""
    counts_energy: bool = False
    note: str = ""

    @abstractmethod
    def __init__(self, rails: Dict[str, str], total: str, root: Path) -> None:
        """Find the rails (none named: all that the sensor has).

        Raises:
            RunnerError: 5: no such sensor here, or not the rails that were named.
        """

    @abstractmethod
    def read(self) -> Dict[str, float]:
        """{rail: milliwatts now}; of a sensor that counts energy {rail: millijoules since some beginning}.

        Raises:
            RunnerError: 5: the sensor went away.
        """


def names() -> Dict[str, str]:
    """Module by probe name."""
    package = importlib.import_module("edgekd.runner.probes")
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    return {name: package.__name__ + "." + name for name in found if name != "base"}


def open_probe(asked: Dict[str, Any], root: Path) -> Probe:
    """The probe that a device profile's `power` asks for: `use`, and the rails with what they feed.

    Raises:
        RunnerError: 5: no such probe in this runner, or no such sensor here.
    """
    known = names()
    name = str(asked.get("use"))
    if name not in known:
        raise RunnerError(
            MISSING, "power: use", "unknown name {!r}".format(name), "one of: " + ", ".join(sorted(known))
        )
    unknown = sorted(set(asked) - set(KEYS))
    if unknown:
        raise RunnerError(MISSING, "power: " + unknown[0], "unknown key", "one of: " + ", ".join(KEYS))
    sensor: Type[Probe] = importlib.import_module(known[name]).Sensor
    rails = {str(rail): str(what) for rail, what in (asked.get("rails") or {}).items()}
    return sensor(rails, str(asked.get("total") or ""), root)
