"""What this machine has of an engine that is no Python package of its name, and of the GPU under it."""

from __future__ import annotations

from edgekd.errors import MissingTool
from edgekd.runner.failure import RunnerError
from edgekd.runner.runtimes import base as engines
from edgekd.runner.trt import gpu


def version(runtime: str) -> str:
    """Version of an engine, as the runner finds it: a program may stand in the place of a package.

    Raises:
        MissingTool: It is not here.
    """
    try:
        return engines.find(runtime)().version
    except RunnerError as error:
        raise MissingTool(f"runtime {runtime}", error.found, error.expected, error.hint) from error


def gpu_facts() -> dict[str, str]:
    """Name, compute capability and driver of the GPU that TensorRT runs on.

    Raises:
        MissingTool: There is none.
    """
    try:
        return gpu.facts()
    except RunnerError as error:
        raise MissingTool(error.where, error.found, error.expected, error.hint) from error
