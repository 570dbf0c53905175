"""One bundle -> result.json, samples.npz, predictions.npz.

result.json (`schema_version` 1): verdict, reasons; kind; profile, label; target; identity {bundle, runtime, machine}; model {file,
bytes, sha256}; runtime {name, version, provider, threads, settings, import_ms}; load_ms; first_inference_ms; golden; warm_up;
latency {end_to_end, preprocess, inference, postprocess}; parts {of the inference}; includes_preprocess; offline; accuracy; power;
peak_memory_mib; machine; state {before, during, after, ...}; notes.
samples.npz: `end_to_end_ns`, `preprocess_ns`, `inference_ns`, `postprocess_ns`, `<part>_ns`, int64, every query in order.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np

from edgekd.runner import answers, atomic, loaded, measure, state
from edgekd.runner.answers import Data
from edgekd.runner.bundle import Bundle
from edgekd.runner.failure import USAGE, VOID, RunnerError
from edgekd.runner.loaded import Loaded
from edgekd.runner.partial import Partial
from edgekd.runner.power import Meter

SCHEMA_VERSION = 1
OWN_LOOP = "timed in the engine's own loop: preprocessing and postprocessing lie outside of the end-to-end time"
OWN_POWER = "the engine's own loop loads the model too: what it drew is not that of the queries alone"


def bench(bundle: Bundle, out: Path, tells: bool = False) -> Dict[str, Any]:
    """Verify, load, check, measure, answer the test images; the result, also written to `out`.

    Run again after it was cut short, it measures no finished latency again and answers only the images that are left; `tells`: it says
    on stderr what is kept for that.

    Raises:
        RunnerError: 2 to 8, as `edgekd.runner.failure` names them. A void result is written all the same.
    """
    profile = profile_of(bundle)
    model = loaded.load(bundle)
    tests = answers.data(model)
    kept = Partial(out, identity(model), tells)
    if kept.finished is not None:
        note("{} holds this result already; another folder measures again".format(out))
        kept.say(len(tests.rows), len(tests.rows))
        return kept.finished
    if kept.note:
        note(kept.note)
    result = kept.result
    if result is None:
        result = _measure(model, tests, profile, out)
        result["notes"] += [kept.note] if kept.note else []
        kept.keep(result)
    else:
        model.golden()
        result["notes"].append("cut short after the latency part and gone on from there")
        note("the latency part is done already: going on with the test images")
    return complete(model, tests, kept, result, out)


def profile_of(bundle: Bundle) -> measure.Profile:
    """How long to measure.

    Raises:
        RunnerError: 2: no such profile.
    """
    if bundle.profile not in measure.PROFILES:
        raise RunnerError(USAGE, "bundle.json: profile", repr(bundle.profile), "one of: " + ", ".join(measure.PROFILES))
    return measure.PROFILES[bundle.profile]


def identity(model: Loaded) -> Dict[str, Any]:
    """What must be the same for two runs to belong together."""
    facts = model.facts["runtime"]
    runtime = "{} {}, {}".format(facts["name"], facts["version"], facts["provider"])
    return {"bundle": model.bundle.digest, "runtime": runtime, "machine": state.machine()}


def begin(model: Loaded, tests: Data) -> Dict[str, Any]:
    """The result so far: what is known before the first figure; the cold query and the golden images."""
    bundle = model.bundle
    begun, _, _, answered = model.query()(tests.stream()[0])
    return {
        "schema_version": SCHEMA_VERSION,
        "profile": bundle.profile,
        "label": measure.LABELS.get(bundle.profile),
        "target": bundle.target,
        "identity": identity(model),
        "machine": state.machine(),
        "notes": [],
        **model.facts,
        "first_inference_ms": (answered - begun) / 1e6,
        "golden": model.golden(),
    }


def conclude(
    result: Dict[str, Any],
    samples: measure.Samples,
    warm: measure.WarmUp,
    looks: List[Dict[str, Any]],
    others: Optional[state.Load] = None,
) -> None:
    """Put the figures of a stream, and what the machine's states (before, during..., after) say of them, into the result."""
    before, after, during = dict(looks[0]), dict(looks[-1]), looks[1:-1]
    if "cpu" in result["runtime"]["provider"].lower():
        before["nvidia"] = after["nvidia"] = None  # what slows a graphics card slows nothing here
    if result["kind"] == "emulated":
        before["emulated"] = before["emulated"] or "the device's profile"
    doubts = measure.doubts(warm, samples)
    result.setdefault("peak_memory_mib", state.peak_memory_mib())  # of the single stream: larger batches come after
    result["verdict"], result["reasons"] = state.verdict(before, after, doubts, during, others)
    result["state"] = state.record(before, after, during)
    if others is not None:
        result["state"]["other_cores"], result["state"]["stolen_cores"] = others
    result["warm_up"] = asdict(warm)
    result["latency"] = {name: measure.summary(values) for name, values in samples.latency.items()}
    result["parts"] = {name: measure.summary(values) for name, values in samples.parts.items()}


def complete(model: Loaded, tests: Data, kept: Partial, result: Dict[str, Any], out: Path) -> Dict[str, Any]:
    """The accuracy pass, then result.json.

    Raises:
        RunnerError: 4: the measurement is void; its result is written.
    """
    result["accuracy"] = answers.accuracy(model, tests, kept, out)
    model.runtime.close()
    kept.finish(result)
    if result["verdict"] == state.VOID:
        raise RunnerError(VOID, "measurement", "; ".join(result["reasons"]), "an undisturbed machine", "measure again")
    kept.say(result["accuracy"]["n"], result["accuracy"]["n"])
    return result


def save_samples(samples: measure.Samples, out: Path) -> None:
    """samples.npz."""
    series = {**samples.latency, **samples.parts}
    atomic.arrays(out / "samples.npz", **{name + "_ns": values for name, values in series.items()})


def note(text: str) -> None:
    """Something that is no error, as a line of JSON on stderr."""
    print(json.dumps({"note": text}), file=sys.stderr, flush=True)


def _measure(model: Loaded, tests: Data, profile: measure.Profile, out: Path) -> Dict[str, Any]:
    """Cold query, golden images, warm-up, single stream, the machine's state around them, and the throughput."""
    result = begin(model, tests)
    stream, query = tests.stream(), model.query()
    meter = Meter(model.bundle.probes.get("power") or {})
    meter.rest()
    before = state.snapshot()
    with state.watch() as during:
        own = _own_loop(model, stream, profile)
        if own is not None:
            result["power"] = {**meter.result, "refused": OWN_POWER} if meter.result else {}
            warm, samples = measure.WarmUp(0, 0.0, steady=True), own
            result["notes"].append(OWN_LOOP)
        else:
            warm = measure.warm_up(query, lambda i: stream[i % len(stream)])
            result["peak_memory_mib"] = state.peak_memory_mib()  # before millions of times are kept beside the model
            recorder = model.recorder()
            with meter.window() as readings:
                samples = measure.single_stream(query, lambda i: stream[i % len(stream)], profile, recorder)
            result["power"] = meter.finish(readings, len(samples.end_to_end), recorder.span)
    conclude(result, samples, warm, [before, *during, state.snapshot()])
    result["includes_preprocess"] = own is None
    save_samples(samples, out)
    result["offline"] = answers.throughput(model, tests, profile)
    return result


def _own_loop(
    model: Loaded, stream: List[np.ndarray[Any, np.dtype[np.uint8]]], profile: measure.Profile
) -> Optional[measure.Samples]:
    """What the engine measured itself, where no process but its own can."""
    times = model.runtime.own_times(model.normalise(stream[0]), profile.seconds, profile.queries)
    if times is None:
        return None
    columns = np.array(times, np.int64).reshape(len(times), len(model.runtime.parts)).T
    whole, none = columns.sum(axis=0), np.zeros(len(times), np.int64)
    return measure.Samples(none, whole, none, whole, dict(zip(model.runtime.parts, columns)))
