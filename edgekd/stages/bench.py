"""Stage `bench`: the shipped files, measured on one device by the runner, in a process of their own.

Nothing here runs a network: a bundle is laid out, the runner is started on the device, its figures are brought back. The
exit code of the runner is the exit code of the stage.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from edgekd import predictions, registry
from edgekd.artifact import Artifact
from edgekd.errors import (
    CheckFailed,
    EdgekdError,
    IntegrityError,
    MeasurementVoid,
    MissingTool,
    StageFailed,
    UsageError,
)
from edgekd.params import BenchParams
from edgekd.runner import state
from edgekd.runner.measure import PROFILES
from edgekd.stages.base import RunContext, StageResult
from edgekd.stages.bench_bundle import build_runner, lay_bundle
from edgekd.transport.base import Completed, Transport

__all__ = ["VERSION", "build_runner", "check", "fingerprint", "run"]

VERSION = 1
INTERRUPTED = 130
ERRORS: dict[int, type[EdgekdError]] = {
    kind.exit_code: kind
    for kind in (UsageError, CheckFailed, MeasurementVoid, MissingTool, IntegrityError, StageFailed)
}


def check(params: BenchParams, context: RunContext) -> None:
    """Raise what can be known before work.

    Raises:
        RecipeError: No such transport.
        MissingTool: The runtime is not installed here.
    """
    _link(params)
    fingerprint(params)


def run(params: BenchParams, inputs: Mapping[str, Artifact], out: Path, context: RunContext) -> StageResult:
    """Measure one target on one device.

    Args:
        params: Target, device and what their profiles say; runtime, profile, threads.
        inputs: `data` and `export`.
        out: Where `result.json`, `samples.npz` and `predictions.npz` go.
        context: Console, and the folder for the bundle.

    Raises:
        CheckFailed: The golden images are answered otherwise on the device.
        MeasurementVoid: Another provider than asked for, or the machine changed under the measurement.
        MissingTool: The runtime is not on the device.
        IntegrityError: A file is not what it was when it was made.
        StageFailed: The runner was killed or could not finish.
    """
    link = _link(params)
    work = context.resume / "bench"
    shutil.rmtree(work, ignore_errors=True)
    answers = f"out-{os.getpid()}"  # a runner that a killed process left behind must not write among ours
    (work / answers).mkdir(parents=True)
    build_runner(work / "runner.pyz")
    lay_bundle(params, inputs, work / "bundle", share=link.shares_files)
    profile = PROFILES[params.profile]
    context.console.log(
        f"bench/{params.target}@{params.device}: {params.runtime}, {params.threads} thread(s), batch 1, "
        f"profile {params.profile} (at least {profile.seconds:g} s)"
    )
    _run_there(link, work, answers, out)
    metrics = _metrics(params, out)
    shutil.rmtree(work)
    for reason in metrics["reasons"]:
        context.console.log(f"bench/{params.target}@{params.device}: {metrics['verdict']}: {reason}")
    return StageResult(metrics, (predictions.FILE,))


def fingerprint(params: BenchParams) -> dict[str, Any]:
    """What of the device belongs to the key: another chip, version or clock mode gives another measurement.

    Raises:
        RecipeError: No such transport.
        MissingTool: The runtime is not installed here.
    """
    machine = state.machine()
    transport = registry.find("transport", params.transport)
    return {
        "chip": machine["cpu"],
        "cores": machine["cores"],
        "python": platform.python_version(),
        "runtime": f"{params.runtime} {_version(params.runtime)}",
        "provider": params.provider,
        "transport": f"{transport.name} {transport.version}",
        "governors": state.governors(),
    }


def _link(params: BenchParams) -> Transport:
    """The way to the device of its profile."""
    return cast("Transport", registry.construct("transport", params.transport, {}))


def _run_there(link: Transport, work: Path, answers: str, out: Path) -> None:
    """Start the runner on the device and bring the files of its folder `answers` back, or raise what it says."""
    there = link.push(work)
    done = link.run([link.python, f"{there}/runner.pyz", "bench", f"{there}/bundle", f"{there}/{answers}"])
    if done.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    if done.returncode != 0:
        raise _error(done)
    link.pull(f"{there}/{answers}", out)


def _error(done: Completed) -> EdgekdError:
    """The runner's last line on stderr as our error; anything else is a worker that died."""
    lines = done.stderr.strip().splitlines() or [""]
    try:
        said = json.loads(lines[-1])
        kind = ERRORS[said["exit_code"]]
        return kind(f"runner: {said['where']}", said["found"], said["expected"], said["hint"])
    except (ValueError, KeyError, TypeError):
        return StageFailed("runner", f"exit code {done.returncode}: {lines[-1][:400]}", "an answer in JSON")


def _metrics(params: BenchParams, out: Path) -> dict[str, Any]:
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    whole, parts = result["latency"]["end_to_end"], result["latency"]
    measured = {f"latency_{name}": whole[name] for name in whole if name.startswith("p")}
    metrics = {
        **predictions.summarize(predictions.load(out)),
        **measured,
        "n_latency": whole["n"],
        "includes_preprocess": result["includes_preprocess"],
        "inference_p50_ms": parts["inference"]["p50_ms"],
        "preprocess_p50_ms": parts["preprocess"]["p50_ms"],
        "throughput_per_s": result["offline"]["throughput_per_s"],
        "throughput_batch": result["offline"]["batch"],
        "load_ms": result["load_ms"],
        "first_inference_ms": result["first_inference_ms"],
        "peak_memory_mib": result["peak_memory_mib"],
        "file_bytes": result["model"]["bytes"],
        "verdict": result["verdict"],
        "reasons": result["reasons"],
        "threads": params.threads,
        "provider": result["runtime"]["provider"],
        "runtime": f"{params.runtime} {result['runtime']['version']}",
    }
    if metrics["right_test"] != result["accuracy"]["right"]:
        raise IntegrityError(
            "runner: predictions.npz", f"{metrics['right_test']} right", str(result["accuracy"]["right"])
        )
    return metrics


def _version(runtime: str) -> str:
    """Version of the installed package that gives a module, without importing it (`onnxruntime` comes in several)."""
    missing = MissingTool(f"runtime {runtime}", "not installed", "the package", f"pip install {runtime}")
    if importlib.util.find_spec(runtime) is None:
        raise missing
    try:
        return metadata.version(runtime)
    except metadata.PackageNotFoundError:
        names = metadata.packages_distributions().get(runtime)
        if not names:
            raise missing from None
        return metadata.version(names[0])
