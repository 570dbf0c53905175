"""Stage `bench`: the shipped files, measured on one device by the runner, in a process of their own.

Nothing here runs a network: a bundle is laid out, the runner is started on the device, its figures are brought back. The
exit code of the runner is the exit code of the stage.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from edgekd import predictions, profiles, registry
from edgekd.artifact import Artifact, canonical
from edgekd.errors import CheckFailed, IntegrityError, MeasurementVoid, MissingTool
from edgekd.params import BenchParams
from edgekd.runner import clocks, state
from edgekd.runner.bundle import FILE, REAL
from edgekd.runner.measure import PROFILES
from edgekd.runner.trt.options import PROVIDER
from edgekd.stages import bench_engine
from edgekd.stages.base import RunContext, StageResult
from edgekd.stages.bench_bundle import RUNNER, build_runner, lay_bundle
from edgekd.stages.bench_link import ERRORS, error_of, link, needs, place, probe, python_of
from edgekd.tools import engines
from edgekd.transport.base import Transport

__all__ = ["VERSION", "build_runner", "check", "error_of", "fingerprint", "link", "place", "run"]

VERSION = 2  # 2: the end-to-end time includes argmax and softmax; parts timed apart
INTERRUPTED = 130
ENDED = (CheckFailed, MeasurementVoid, IntegrityError)  # with these a run is over; nothing of it is gone on with
EMULATED = "emulated: correctness only"


def check(params: BenchParams, context: RunContext) -> None:
    """Raise what can be known before work.

    Raises:
        RecipeError: No such transport.
        MissingTool: The runtime is not installed here.
    """
    link(params)
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
    way, name = link(params), f"bench/{params.target}@{place(params)}"
    if params.transport != "local" and probe(way, place(params))["emulated"]:
        params = params.model_copy(update={"kind": "emulated"})
    work = context.resume / "bench"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    build_runner(work / RUNNER)
    lay_bundle(params, inputs, work / "bundle", share=way.shares_files)
    profile = PROFILES[params.profile]
    context.console.log(
        f"{name}: {params.runtime}, {params.threads} thread(s), batch 1, profile {params.profile} "
        f"(at least {profile.seconds:g} s)"
    )
    with way.held(context.console.log):
        _run_there(way, work, params, out, context)
    metrics = _metrics(params, out)
    shutil.rmtree(work)
    for reason in metrics["reasons"]:
        context.console.log(f"{name}: {metrics['verdict']}: {reason}")
    return StageResult(metrics, (predictions.FILE,))


def fingerprint(params: BenchParams) -> dict[str, Any]:
    """What of the device belongs to the key: another chip, version or clock mode gives another measurement.

    Raises:
        RecipeError: No such transport.
        MissingTool: The runtime is not installed here.
    """
    if params.transport != "local":
        return _board_fingerprint(params)
    machine = state.machine()
    transport = registry.find("transport", params.transport)
    mode = clocks.power_mode(state.ROOT, ask=True)
    return {
        **({} if mode is None else {"power_mode": mode}),
        **({"gpu": bench_engine.gpu_facts()} if params.provider == PROVIDER else {}),
        "chip": machine["cpu"],
        "cores": machine["cores"],
        "python": platform.python_version(),
        "runtime": f"{params.runtime} {_version(params.runtime)}",
        "provider": params.provider,
        "transport": f"{transport.name} {transport.version}",
        "governors": state.governors(),
    }


def _board_fingerprint(params: BenchParams) -> dict[str, Any]:
    """The same of a board, which says it itself; its name and host are in no key."""
    told = probe(link(params), place(params))
    machine, now = told["machine"], told["state"]
    version = told["engines"].get(params.runtime)
    if version is None:
        why = told["missing"].get(params.runtime) or {"found": "not known there", "hint": ""}
        hint = needs(profiles.device(place(params)), params.runtime, why["hint"])
        where = f"device {place(params)}: runtime {params.runtime}"
        raise MissingTool(where, why["found"], "the runtime on the board", hint)
    transport = registry.find("transport", params.transport)
    return {
        "chip": machine["cpu"],
        "board": machine["board"],
        "cores": machine["cores"],
        "system": machine["system"],
        "python": machine["python"],
        "runtime": f"{params.runtime} {version}",
        "provider": params.provider,
        "transport": f"{transport.name} {transport.version}",
        "governors": now["governors"],
        "power_mode": told["power_mode"],
        "limits_mhz": now["limits_mhz"],
        **({"gpu": told["gpu"]} if params.provider == PROVIDER else {}),
        "emulated": bool(told["emulated"]),
    }


def _run_there(way: Transport, work: Path, params: BenchParams, out: Path, context: RunContext) -> None:
    """Start the runner on the device and bring the files of its folder back, or raise what it says."""
    there = way.push(work)
    if way.sent[0]:
        count, size = sum(path.is_file() for path in work.rglob("*")), way.sent[1] / 2**20
        context.console.log(
            f"{place(params)}: {way.sent[0]} of {count} files sent ({size:.1f} MiB); the others are there"
        )
    answers = _answers(way, there, work, params)
    tell = [] if params.transport == "local" else ["--tell"]  # for a connection that may be lost
    done = way.run([python_of(way, params), f"{there}/{RUNNER}", "bench", *tell, f"{there}/bundle", answers])
    if done.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    if done.returncode != 0:
        if ERRORS.get(done.returncode) in ENDED:
            way.clear(answers)
        raise error_of(done)
    way.pull(answers, out)
    way.clear(answers)
    asked = hashlib.sha256((work / "bundle" / FILE).read_bytes()).hexdigest()
    answered = json.loads((out / "result.json").read_text(encoding="utf-8"))["identity"]["bundle"]
    if answered != asked:  # its hash is in no bundle.json: whoever changed it there changed what was asked
        hint = "see who else writes on the device, then bench again"
        raise IntegrityError(f"{place(params)}: {FILE}", f"the runner read SHA-256 {answered}", asked, hint)


def _answers(way: Transport, there: str, work: Path, params: BenchParams) -> str:
    """The runner's folder. On a board it outlives a lost connection, and the same measurement goes on in it."""
    if params.transport == "local":
        folder = Path(there) / f"out-{os.getpid()}"  # not among what a runner of a killed process may still write
        folder.mkdir()
        return str(folder)
    asked = (work / "bundle" / FILE).read_bytes() + canonical(fingerprint(params))
    return str(PurePosixPath(there).parent / "runs" / hashlib.sha256(asked).hexdigest()[:16])


def _metrics(params: BenchParams, out: Path) -> dict[str, Any]:
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    kind = result.get("kind", REAL[0])
    metrics = {
        **predictions.summarize(predictions.load(out)),
        **(_times(result) if kind in REAL else {}),
        "kind": kind,
        "peak_memory_mib": result["peak_memory_mib"],
        "file_bytes": result["model"]["bytes"],
        "verdict": result["verdict"],
        "reasons": result["reasons"],
        "threads": params.threads,
        "provider": result["runtime"]["provider"],
        "runtime": f"{params.runtime} {result['runtime']['version']}",
    }
    if kind == "emulated" and EMULATED not in metrics["reasons"]:
        metrics["reasons"] = [EMULATED, *metrics["reasons"]]
    if metrics["right_test"] != result["accuracy"]["right"]:
        raise IntegrityError(
            "runner: predictions.npz", f"{metrics['right_test']} right", str(result["accuracy"]["right"])
        )
    return metrics


def _times(result: Mapping[str, Any]) -> dict[str, Any]:
    """What is a figure of speed only where a real device has taken that time."""
    whole, parts = result["latency"]["end_to_end"], result["latency"]
    return {
        **{f"latency_{name}": whole[name] for name in whole if name.startswith("p")},
        "n_latency": whole["n"],
        "includes_preprocess": result["includes_preprocess"],
        "inference_p50_ms": parts["inference"]["p50_ms"],
        "preprocess_p50_ms": parts["preprocess"]["p50_ms"],
        "throughput_per_s": result["offline"]["throughput_per_s"],
        "throughput_batch": result["offline"]["batch"],
        "load_ms": result["load_ms"],
        "first_inference_ms": result["first_inference_ms"],
    }


def _version(runtime: str) -> str:
    """Version of the installed package that gives a module, without importing it (`onnxruntime` comes in several)."""
    own = engines.version(runtime, f"runtime {runtime}")
    if own is not None:
        return own
    missing = MissingTool(f"runtime {runtime}", "not installed", "the package", f"pip install {runtime}")
    if importlib.util.find_spec(runtime) is None:
        return bench_engine.version(runtime)
    try:
        return metadata.version(runtime)
    except metadata.PackageNotFoundError:
        names = metadata.packages_distributions().get(runtime)
        if not names:
            raise missing from None
        return metadata.version(names[0])
