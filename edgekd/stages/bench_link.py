"""Stage `bench`: the way to a device, and what the device says of itself before anything is measured on it."""

from __future__ import annotations

import json
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any, cast

from edgekd import profiles, registry
from edgekd.errors import (
    CheckFailed,
    EdgekdError,
    EngineMismatch,
    IntegrityError,
    MeasurementVoid,
    MissingTool,
    StageFailed,
    UsageError,
)
from edgekd.params import BenchParams
from edgekd.profiles import Device
from edgekd.stages.bench_bundle import RUNNER, build_runner
from edgekd.tools import engines
from edgekd.transport.base import Completed, Transport

ERRORS: dict[int, type[EdgekdError]] = {
    kind.exit_code: kind
    for kind in (UsageError, CheckFailed, MeasurementVoid, MissingTool, IntegrityError, StageFailed, EngineMismatch)
}
FRESH_S = 60.0  # how long what a board said of itself is taken for its present state
_told: dict[str, tuple[float, dict[str, Any]]] = {}


def link(params: BenchParams) -> Transport:
    """The way to the device of a bench step.

    Raises:
        RecipeError: No such transport, or the board is not configured any more.
    """
    if params.board is not None:
        return link_to(profiles.device(params.board))
    if params.transport == "ssh":
        hint = f"edgekd devices add NAME --host user@board --profile {params.device}; then: --device NAME"
        raise MissingTool(f"device {params.device}", "nothing says which board that is", "a board of yours", hint)
    return cast("Transport", registry.construct("transport", params.transport, {}))


def link_to(device: Device) -> Transport:
    """The way to a device: to a board always the same one, so that its connection is shared."""
    if device.host is None:
        return cast("Transport", registry.construct("transport", device.transport, {}))
    return _board(device.host, device.python or "python3", device.folder or "", device.ssh_options)


def python_of(way: Transport, params: BenchParams) -> str:
    """The Python that has the engine: of a board its own, of this machine perhaps that of a tool environment.

    Raises:
        MissingTool: The engine's package is not here.
    """
    if params.transport != "local":
        return way.python
    return str(engines.python(params.runtime, f"runtime {params.runtime}"))


def place(params: BenchParams) -> str:
    """The device of a bench step as its user calls it."""
    return params.board or params.device


def probe(way: Transport, name: str, fresh: bool = False) -> dict[str, Any]:
    """What `runner.pyz probe` says on a device.

    Args:
        way: From `link`.
        name: Of the device; what it said in the last minute is not asked for again.
        fresh: Ask all the same.

    Raises:
        MissingTool: It cannot be reached, or lacks Python or NumPy.
        StageFailed: It answers something else.
    """
    told = _told.get(name)
    if told is not None and not fresh and time.monotonic() - told[0] < FRESH_S:
        return told[1]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "probe"
        folder.mkdir()
        build_runner(folder / RUNNER)
        done = way.run([way.python, f"{way.push(folder)}/{RUNNER}", "probe"])
    if done.returncode != 0:
        raise error_of(done)
    try:
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise StageFailed(f"device {name}", f"{done.stdout[-200:]!r}", "an answer in JSON") from error
    _told[name] = (time.monotonic(), found)
    return cast("dict[str, Any]", found)


def needs(device: Device, runtime: str, hint: str) -> str:
    """What brings a runtime to a board: its profile's words, but not what edgekd installs, for that comes to this machine."""
    said = device.runtimes[runtime].needs
    return hint if not said or (device.host is not None and "edgekd" in said) else said


def error_of(done: Completed) -> EdgekdError:
    """The runner's last line on stderr as our error; anything else is a worker that died."""
    lines = done.stderr.strip().splitlines() or [""]
    try:
        said = json.loads(lines[-1])
        kind = ERRORS[said["exit_code"]]
        return kind(f"runner: {said['where']}", said["found"], said["expected"], said["hint"])
    except (ValueError, KeyError, TypeError):
        return StageFailed("runner", f"exit code {done.returncode}: {lines[-1][:400]}", "an answer in JSON")


@cache
def _board(host: str, python: str, folder: str, options: tuple[str, ...]) -> Transport:
    given = {"host": host, "python": python, "folder": folder, "ssh_options": options}
    return cast("Transport", registry.construct("transport", "ssh", given))
