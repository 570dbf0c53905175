"""Which Python of this machine has the package of a runner's engine: edgekd's own, or that of a tool environment."""

from __future__ import annotations

import sys
from pathlib import Path

from edgekd.tools import beside, place

# {engine: (tool whose environment has it, {module: package} of those that give it)}
ENGINES = {
    "litert": ("litert", {"ai_edge_litert": "ai-edge-litert"}),
    "executorch": ("executorch", {"executorch": "executorch"}),
    "openvino": ("openvino", {"openvino": "openvino"}),
    "qnn": ("qnn", {"onnxruntime_qnn": "onnxruntime-qnn"}),
}


def python(runtime: str, where: str) -> Path:
    """The interpreter that an engine is run with here; of an engine that no tool brings, edgekd's own.

    Raises:
        MissingTool: Its package is not beside edgekd, and its tool is not installed, or broken.
    """
    if runtime not in ENGINES or _here(runtime) is not None:
        return Path(sys.executable)
    return place.require(ENGINES[runtime][0], where).python


def version(runtime: str, where: str) -> str | None:
    """Version of an engine's package, nothing imported; None where no tool brings it.

    Raises:
        MissingTool: As `python`.
    """
    if runtime not in ENGINES:
        return None
    found = _here(runtime)
    if found is None:
        env = place.require(ENGINES[runtime][0], where)
        assert not isinstance(env, beside.BesideEnv)  # its package would be here
        found = env.tool.pins()[next(iter(ENGINES[runtime][1].values()))]  # no other is there: see `place.fault`
    return found


def _here(runtime: str) -> str | None:
    """Version of the package beside edgekd."""
    return next((found for item in ENGINES[runtime][1].items() if (found := beside.version(*item)) is not None), None)
