"""`edgekd reproduce ID`: make it again from what its chain recorded, and say whether it came out the same."""

from __future__ import annotations

import json as jsonlib
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekd import locks, manifest, pipeline, registry
from edgekd import recipe as recipes
from edgekd.analysis import lineage, reproduced
from edgekd.analysis.reproduced import Judged, Tolerance
from edgekd.artifact import Artifact, material
from edgekd.commands import current, origins, output
from edgekd.commands.chain import data_roots, weight_caches
from edgekd.commands.lineage import error_of
from edgekd.commands.origins import Places
from edgekd.commands.recorded import recorded
from edgekd.console import Console
from edgekd.durable import inside, write_whole
from edgekd.errors import CheckFailed, UsageError
from edgekd.keys import Settings, prepare
from edgekd.plan import Step
from edgekd.store import Store

FOLDER, STATED, VERDICT = "reproduce", "stated.json", "verdict.json"


@dataclass(frozen=True)
class ReproduceOptions:
    """The command line, as typed."""

    reference: str
    bench_only: bool
    tolerance: float
    workspace: Path
    data_root: list[Path] | None
    json: bool


@dataclass(frozen=True)
class Again:
    """What is to be made again.

    Attributes:
        artifacts: The recorded chain, upstream first.
        steps: {step: as recorded} of those to make.
        pins: {step: artifact} of those that are taken as they are.
        missing: Why something cannot be made again.
        unlike: In what the conditions differ from the recorded ones.
    """

    artifacts: Mapping[str, Artifact]
    steps: Mapping[str, Step]
    pins: Mapping[str, Artifact]
    missing: list[str]
    unlike: list[str]


def reproduce(options: ReproduceOptions) -> None:
    """Make an artifact again in a workspace of its own and compare; the same call goes on where it was cut short.

    Raises:
        CheckFailed: It came out different.
        IntegrityError: The recorded chain is damaged.
        UsageError: `--bench-only` of something else, or a ratio that is none.
    """
    console = Console(quiet=False)
    tolerance = _tolerance(options.tolerance)
    again = _again(options)
    last = list(again.artifacts.values())[-1]
    name = last.id.replace("/", "~") + ("~bench" if options.bench_only else "")
    place = inside(options.workspace, options.workspace / FOLDER / name)
    stated = [*tolerance.lines(again.unlike), *(f"not made again: {line}" for line in again.missing)]
    with locks.held(options.workspace, options.workspace / FOLDER / f".{name}.lock"):
        text = jsonlib.dumps(stated, indent=1, ensure_ascii=False).encode()
        begun = (place / STATED).is_file() and (place / STATED).read_bytes() == text
        if place.exists() and ((place / VERDICT).exists() or not begun):
            shutil.rmtree(place)  # one that came to its end, or was begun under another rule: this is another one
        write_whole(place / STATED, text)
        for line in stated:
            console.log(line)
        judged = _run(again, place, options, tolerance, console)
        _conclude(last, judged, stated, place, options)


def _tolerance(ratio: float) -> Tolerance:
    if not ratio > 1:
        raise UsageError("--tolerance", f"{ratio:g}", "a ratio of two medians above 1", "--tolerance 1.25")
    return Tolerance(ratio)


def _again(options: ReproduceOptions) -> Again:
    """What to make, what to take, and under which conditions; nothing is made yet."""
    workspace = options.workspace
    last = current.resolve(workspace, options.reference)
    if options.bench_only and not last.step.startswith("bench/"):
        hint = f"edgekd artifacts ls{current.option(workspace)}"
        raise UsageError("--bench-only", f"{last.id} is no measurement", "a bench artifact", hint)
    found = lineage.chain(Store(workspace), last)
    faults = list(lineage.verify(found))
    if faults:
        raise error_of(faults, workspace)
    artifacts = found.steps
    places = Places(data_roots(options.data_root), origins.recipe_dir(workspace, artifacts.values()), weight_caches())
    pins = {step: a for step, a in artifacts.items() if options.bench_only and step != last.step}
    missing = [f"{step} (--bench-only): taken as sealed" for step in pins]
    for origin in () if options.bench_only else origins.look(artifacts.values(), places):
        if origin.found != origin.expected:
            step = origin.artifact.rpartition("/")[0]
            why = origin.why or f"other bytes are there now: SHA-256 {origin.found}"
            pins[step] = artifacts[step]
            missing.append(f"{step}: {origin.what}: {why}; taken as sealed")
    made = {step: artifact for step, artifact in artifacts.items() if step not in pins}
    host = manifest.host()
    differing = [
        *(_versions(artifact) for artifact in made.values()),
        *(reproduced.unlike(artifact.manifest, manifest.versions(), host) for artifact in made.values()),
    ]
    steps = {step: recorded(artifact) for step, artifact in made.items()}
    return Again(artifacts, steps, pins, missing, list(dict.fromkeys(line for found in differing for line in found)))


def _versions(artifact: Artifact) -> list[str]:
    """Stage and plugin that are of another version now."""
    values = artifact.manifest
    found = [(f"stage {values['stage']}", values["version"], registry.stage_version(values["stage"]))]
    if values.get("plugin"):
        group, name = values["plugin"]["group"], values["plugin"]["name"]
        found.append((f"{group}/{name}", values["plugin"]["version"], registry.find(group, name).version))
    return [f"{what} version {old} -> {new}" for what, old, new in found if old != new]


def _run(again: Again, place: Path, options: ReproduceOptions, tolerance: Tolerance, console: Console) -> list[Judged]:
    settings = Settings(
        workspace=place,
        data_roots=data_roots(options.data_root),
        recipe_dir=origins.recipe_dir(options.workspace, again.artifacts.values()),
        console=console,
        threads=1,
        pins=again.pins,
        weight_caches=weight_caches(),
    )
    done: dict[str, Artifact] = {}
    judged: list[Judged] = []
    for name, old in again.artifacts.items():
        if name in again.pins:
            done[name] = again.pins[name]
            continue
        done[name] = _made(again.steps[name], old, done, settings)
        judged.append(_judged(old, done[name], again, tolerance))
        console.log(f"{judged[-1].answer}: {name} ({judged[-1].why})")
    return judged


def _made(step: Step, old: Artifact, done: Mapping[str, Artifact], settings: Settings) -> Artifact:
    """One step again, with the threads that it was made with."""
    recipe = recipes.from_dict(old.manifest.get("recipe", {}), f"recipe of {old.id}").model_copy(update={"gate": None})
    own = replace(settings, threads=int(old.manifest.get("threads", 1)))
    with recipe.placed():
        prepared = prepare(step, own)
        outcome = pipeline.look(prepared, done, own)
        if outcome.artifact is None:
            pipeline.check_all([prepared], done, own)
            outcome = pipeline.make(recipe, outcome, done, own)
    assert outcome.artifact is not None
    return outcome.artifact


def _judged(old: Artifact, new: Artifact, again: Again, tolerance: Tolerance) -> Judged:
    found = manifest.changes(material(old.manifest), material(new.manifest))
    own = [change.text for change in found if not change.name.startswith("inputs.")]
    exact = not again.unlike and not found
    return reproduced.judge(old, new, exact, tolerance, [f"not made alike: {line}" for line in own])


def _conclude(last: Artifact, judged: list[Judged], stated: list[str], place: Path, options: ReproduceOptions) -> None:
    """Keep and print the verdict; what was made is kept only where it is different, to be looked at."""
    answer = reproduced.overall(judged)
    facts: dict[str, Any] = {
        "artifact": last.id,
        "answer": answer,
        "stated": stated,
        "steps": [vars(item) for item in judged],
    }
    if answer != "different":
        shutil.rmtree(place / "artifacts")
    write_whole(place / VERDICT, jsonlib.dumps(facts, indent=1, ensure_ascii=False).encode())
    worst = next((item for item in judged if item.answer == "different"), judged[-1])
    there = shlex.quote(str(place / "artifacts" / worst.again))
    hint = f"edgekd explain {worst.recorded} {there}{current.option(options.workspace)}"
    error = CheckFailed(last.id, f"came out different: {worst.step}: {worst.why}", stated[0], hint)
    if options.json:
        if answer == "different":
            output.fail(error, facts)
        output.print_json(facts)
        return
    rows = [
        (item.step, item.recorded.rpartition("/")[2], item.again.rpartition("/")[2], item.answer, item.why)
        for item in judged
    ]
    output.print_table(("step", "recorded", "again", "answer", "why"), rows)
    if answer == "different":
        raise error
    output.say(f"{last.id}: {answer}")
    output.next_command(f"edgekd lineage {last.id} --verify{current.option(options.workspace)}")
