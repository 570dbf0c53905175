"""Several shipped files on one device, each in a runner process of its own that waits for its turn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact
from edgekd.errors import MeasurementVoid, UsageError
from edgekd.params import BenchParams
from edgekd.runner.measure import PROFILES
from edgekd.stages.bench_bundle import RUNNER, build_runner, lay_bundle
from edgekd.stages.bench_link import error_of, link, place, probe, python_of
from edgekd.stages.contenders import Contender, Spoken
from edgekd.stages.turns import SITTINGS, Rounds, all_ready, take_turns
from edgekd.transport.base import Completed, Transport

Log = Callable[[str], object]
BUNDLE, ANSWERS = "bundle", "out"


@dataclass(frozen=True)
class Entry:
    """One file that is to be measured on a device.

    Attributes:
        name: In tables.
        params: As its bench step has them.
        inputs: `data` and `export`.
    """

    name: str
    params: BenchParams
    inputs: Mapping[str, Artifact]


@dataclass(frozen=True)
class Measured:
    """The rounds, and what each runner says in the end: {name: result.json}."""

    rounds: Rounds
    results: Mapping[str, Mapping[str, Any]]


@contextmanager
def laid(entries: Sequence[Entry], work: Path, log: Log) -> Iterator[tuple[Transport, str]]:
    """Lay the bundles out on their one device; gives the way there and their folder there. `work` is removed in the end.

    Raises:
        UsageError: They are of several devices.
        StageFailed: Somebody else uses the device.
    """
    devices = sorted({place(entry.params) for entry in entries})
    if len(devices) > 1:
        raise UsageError("device", ", ".join(devices), "one: files take turns on the same machine", "--device D")
    way = link(entries[0].params)
    if not way.shares_files and probe(way, devices[0])["state"]["emulated"]:
        kind = {"kind": "emulated"}
        entries = [replace(entry, params=entry.params.model_copy(update=kind)) for entry in entries]
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        build_runner(work / RUNNER)
        for i, entry in enumerate(entries):
            (work / str(i)).mkdir()
            lay_bundle(entry.params, entry.inputs, work / str(i) / BUNDLE, share=way.shares_files)
        with way.held(log):
            yield way, way.push(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def measure(
    entries: Sequence[Entry], work: Path, log: Log, seed: int = 0, others: Sequence[Contender] = ()
) -> Measured:
    """Measure files in turn on their device, and programs that are not ours among them.

    Args:
        entries: At least one; with `others` at least two in all.
        work: A folder that is made and removed.
        log: Told how far it is.
        seed: Of the order of turns.
        others: Further contenders, not started.

    Raises:
        MeasurementVoid: A runner says so of its own run.
        EdgekdError: What a runner says when it ends with an error.
    """
    profile = PROFILES[entries[0].params.profile]
    with laid(entries, work, log) as (way, there):
        contenders = [*(_runner(way, entry, there, i) for i, entry in enumerate(entries)), *others]
        rounds = Rounds({contender.name: [] for contender in contenders})
        for sitting in range(SITTINGS):
            with all_ready(contenders):
                take_turns(contenders, profile.seconds, seed, log, before=rounds, share=SITTINGS)
                if sitting == SITTINGS - 1:  # of the others the times alone are wanted
                    for contender in contenders:
                        contender.finish()
        results = {
            entry.name: _result(way, f"{there}/{i}/{ANSWERS}", work / str(i) / "back")
            for i, entry in enumerate(entries)
        }
        for i in range(len(entries)):
            way.clear(f"{there}/{i}/{ANSWERS}")
    for name, result in results.items():
        if result["verdict"] == "void":
            raise MeasurementVoid(name, "; ".join(result["reasons"]), "an undisturbed machine", "measure again")
    return Measured(rounds, results)


def _runner(way: Transport, entry: Entry, there: str, i: int) -> Spoken:
    argv = [
        python_of(way, entry.params),
        f"{there}/{RUNNER}",
        "bench",
        f"{there}/{i}/{BUNDLE}",
        f"{there}/{i}/{ANSWERS}",
        "--turns",
    ]
    return Spoken(entry.name, argv, way.start, lambda code, err: error_of(Completed(code, "", err)))


def _result(way: Transport, there: str, back: Path) -> dict[str, Any]:
    back.mkdir()
    way.pull(there, back)
    found: dict[str, Any] = json.loads((back / "result.json").read_text(encoding="utf-8"))
    return found
