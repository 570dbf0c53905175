"""`edgekd export --build here|device`: where the engine of a TensorRT target is built.

An engine is of one TensorRT version and one chip, so it is built where it runs: by the runner, from the exported file, the first
time it is used there. `here` asks for that on this machine. Written, not run on hardware.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import Any

from edgekd import profiles
from edgekd.commands.bundle_selftest import selftest
from edgekd.console import Console
from edgekd.errors import MissingTool, UsageError
from edgekd.params import BenchParams, ExportParams
from edgekd.pipeline import Outcome
from edgekd.plan import Step, bench_params
from edgekd.profiles import Device
from edgekd.recipe import Recipe
from edgekd.runner.failure import RunnerError
from edgekd.runner.trt import gpu
from edgekd.runner.trt.command import PLACES, find_program
from edgekd.runner.trt.cudart import Cuda
from edgekd.stages.bench_bundle import lay_bundle

RUNTIME = "tensorrt"
HERE, DEVICE = "here", "device"
ON_DEVICE = "the engine is built on the device, from this file, the first time it runs there"
BUILT = "the engine is built, and answers the golden images; the runner keeps it on this machine"
BUILDER = "rtx"  # the device that is a GPU of this machine


def engines(steps: Sequence[Step]) -> list[str]:
    """The `export/...` steps whose files are built into an engine."""
    exports = {step.name: step.params for step in steps if isinstance(step.params, ExportParams)}
    known = profiles.targets()
    return [n for n, params in exports.items() if params.target in known and RUNTIME in known[params.target].runtimes]


def require(steps: Sequence[Step]) -> None:
    """See, before any work, that every target is one to be built, and that this machine can build and test it.

    Raises:
        UsageError: A target has no engine.
        MissingTool: TensorRT, the CUDA runtime or a GPU is not here; each that is missing is named.
    """
    others = [step.name for step in steps if step.kind == "export" and step.name not in engines(steps)]
    if others:
        found = f"{', '.join(others)} has no engine to build"
        raise UsageError("--build here", found, "a target of family trt", "--format trt")
    missing = lacking()
    if missing:
        raise MissingTool(
            "--build here",
            "; ".join(missing),
            "TensorRT, the CUDA runtime and an NVIDIA GPU in this machine",
            "--build device: the engine is built on the device",
        )


def lacking() -> list[str]:
    """What this machine lacks to build an engine and test it, one text each."""
    bindings = util.find_spec(RUNTIME) is not None
    found = []
    if not bindings and find_program() is None:
        found.append(
            f"no TensorRT (neither the Python package {RUNTIME} nor trtexec on PATH or in {', '.join(PLACES)})"
        )
    for part in (Cuda, gpu.facts) if bindings or found else (gpu.facts,):  # trtexec brings its own CUDA runtime
        try:
            part()
        except RunnerError as error:
            found.append(f"no {error.where} ({error.found})")
    return found


def build_here(outcomes: Sequence[Outcome], recipe: Recipe, console: Console) -> dict[str, Any]:
    """Let the runner build each engine and answer the golden images with it; it stays in the runner's cache on this machine.

    Returns:
        {export step: what the runner says of runtime and golden images}.

    Raises:
        CheckFailed: The engine answers the golden images otherwise; it is not kept.
        StageFailed: TensorRT refuses the file, or memory runs out.
    """
    made = {outcome.step.name: outcome for outcome in outcomes}
    told = {}
    for name in engines([outcome.step for outcome in outcomes]):
        console.log(f"{name}: building the engine on this machine")
        told[name] = _tested(made[name], made["data"], recipe)
    return told


def next_command(name: str, place: str) -> str:
    """What to type after the export of a file that the recipe's device does not measure.

    Args:
        name: The `export/...` step.
        place: HERE: measure what was built; DEVICE: the bundle for the smallest board that builds it.
    """
    if place == HERE:
        return f"edgekd bench --format {name.partition('/')[2]} --device {BUILDER}"
    boards = [d for d in profiles.devices().values() if RUNTIME in d.runtimes and d.transport != "local"]
    board = min(boards, key=lambda kind: (kind.memory_mib or 0, kind.name))
    return f"edgekd bundle --format {name.partition('/')[2]} --device {board.name}"


def _tested(export: Outcome, data: Outcome, recipe: Recipe) -> Any:
    assert export.artifact is not None and data.artifact is not None and isinstance(export.step.params, ExportParams)
    inputs = {"export": export.artifact, "data": data.artifact}
    target, device = profiles.target(export.step.params.target), profiles.device(BUILDER)
    params = _params(recipe, target, device)
    with tempfile.TemporaryDirectory(prefix="edgekd-build-") as place:
        folder = Path(place) / "bundle"
        lay_bundle(params, inputs, folder, share=False, kind="deploy", runner=True)
        done = selftest(folder, params, None)
    if not done["ran"]:
        raise MissingTool("--build here", str(done["why"]), "TensorRT that can be loaded")
    return done["said"]


def _params(recipe: Recipe, target: profiles.Target, device: Device) -> BenchParams:
    """As the device's own profile runs it, whatever runtime the recipe measures other targets with."""
    return bench_params(recipe, target, device, RUNTIME)
