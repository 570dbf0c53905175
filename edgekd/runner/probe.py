"""What a machine is and has, without loading a model: one line of JSON."""

from __future__ import annotations

import importlib
from typing import Any, Dict, Optional

from edgekd.runner import state
from edgekd.runner.failure import RunnerError
from edgekd.runner.probes import base as sensors
from edgekd.runner.runtimes import base
from edgekd.runner.trt import gpu


def probe() -> Dict[str, Any]:
    """machine, state, power_mode, engines {name: version}, missing {name: {found, hint}}, probes, decoders, gpu, emulated."""
    engines: Dict[str, str] = {}
    missing: Dict[str, Dict[str, str]] = {}
    for name in sorted(base.names()):
        try:
            engines[name] = base.find(name)().version
        except RunnerError as error:
            missing[name] = {"found": error.found, "hint": error.hint}
    now = state.snapshot()
    return {
        "schema_version": 1,
        "machine": state.machine(),
        "state": now,
        "power_mode": now.get("power_mode"),
        "engines": engines,
        "missing": missing,
        "probes": _sensors(),
        "decoders": [name for name in ("PIL.Image", "cv2") if _importable(name)],
        "gpu": _gpu(),
        "emulated": state.emulated(),
        "cache": str(base.cache_folder()),
    }


def _gpu() -> Optional[Dict[str, str]]:
    """Name, compute capability and driver of NVIDIA's GPU; None: there is none, or no driver."""
    try:
        return gpu.facts()
    except RunnerError:
        return None


def _sensors() -> Dict[str, Any]:
    """{probe: {rail: what it feeds}, or what is missing}."""
    found: Dict[str, Any] = {}
    for name in sorted(sensors.names()):
        try:
            found[name] = sensors.open_probe({"use": name}, state.ROOT).rails
        except RunnerError as error:
            found[name] = "{}: {}".format(error.where, error.found)
    return found


def _importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True
