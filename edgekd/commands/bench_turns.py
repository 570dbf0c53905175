"""`edgekd bench A B [C ...]`: shipped files measured in turn, in one run, and what may be said of their speeds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd import profiles
from edgekd import recipe as recipes
from edgekd.analysis import turns as figures
from edgekd.artifact import Artifact
from edgekd.commands import current, start
from edgekd.commands.chain import data_roots, weight_caches
from edgekd.commands.say_turns import advice, facts_of, finish
from edgekd.console import Console
from edgekd.durable import inside
from edgekd.errors import UsageError
from edgekd.keys import Settings
from edgekd.params import BenchParams
from edgekd.pipeline import run, steps_of
from edgekd.recipe import Recipe
from edgekd.runner.state import usable_cores
from edgekd.stages.bench_turns import Entry, measure
from edgekd.store import Store

FOLDER, MOST_NAME = "turns", 120
PREFIX = "export/"


@dataclass(frozen=True)
class TurnsOptions:
    """The command line, as typed."""

    references: Sequence[str]
    device: str | None
    workspace: Path
    data_root: list[Path] | None
    overrides: list[str] | None
    output: Path | None
    json: bool
    seed: int = 0


def bench_turns(options: TurnsOptions) -> None:
    """Measure the files in turn, print their figures and every pair's ratio, and write both.

    Raises:
        UsageError: Fewer than two files, one twice, or a name that nothing answers to.
        MissingTool: The device cannot run one of them.
        MeasurementVoid: The machine changed under the measurement.
    """
    if len(options.references) < 2:
        raise UsageError("edgekd bench", f"{len(options.references)} file", "two or more, or none", "edgekd bench A B")
    console = Console()
    entries = find_entries(options, console)
    console.log(f"{len(entries)} files take turns on {entries[0].params.device}: {', '.join(e.name for e in entries)}")
    found = measure(entries, work_folder(options.workspace), console.log, options.seed)
    facts = facts_of(
        "bench", entries, found, figures.effects(found.rounds.blocks, sittings=found.rounds.sittings), options.seed
    )
    facts["advice"] = advice(entries, facts["effects"])
    finish(facts, place_of(facts, options), options.json, "edgekd pareto" + current.option(options.workspace))


def find_entries(options: TurnsOptions, console: Console) -> list[Entry]:
    """Each file with the parameters that its own bench step would have."""
    artifacts = [_export(reference, options, console) for reference in options.references]
    names = [artifact.id for artifact in artifacts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError("edgekd bench", f"{twice} is named twice", "different files", "edgekd artifacts ls")
    steps = [artifact.step for artifact in artifacts]
    short = [
        artifact.step.removeprefix(PREFIX) if steps.count(artifact.step) == 1 else artifact.id.removeprefix(PREFIX)
        for artifact in artifacts
    ]
    return [_entry(name, artifact, options) for name, artifact in zip(short, artifacts, strict=True)]


def place_of(facts: Mapping[str, Any], options: TurnsOptions) -> Path:
    """Where the facts are written: `--output`, or a folder of the workspace that is named by what was measured."""
    name = f"{facts['command']}-" + "-".join(run["name"].replace("/", "-") for run in facts["runs"])
    return options.output or inside(options.workspace, options.workspace / FOLDER / name[:MOST_NAME])


def work_folder(workspace: Path) -> Path:
    """Where the bundles are laid out: of this process alone."""
    return inside(workspace, workspace / FOLDER / f".work-{os.getpid()}")


def _export(reference: str, options: TurnsOptions, console: Console) -> Artifact:
    """The export that a reference means: a target or step of the current run, an id, a tag, its measurement, or a file."""
    if start.is_file(reference, options.workspace):
        return _of_file(reference, options, console)
    head = current.head(options.workspace)
    step = PREFIX + reference
    try:
        found = current.resolve(options.workspace, step if head is not None and step in head.steps else reference)
    except UsageError as error:
        if reference not in profiles.targets():
            raise
        hint = f"edgekd export --format {reference}{current.option(options.workspace)}"
        raise UsageError(reference, "is no file of the current run", error.expected, hint) from error
    if found.step.startswith("bench/"):
        found = Store(options.workspace).resolve(found.inputs["export"])
    if not found.step.startswith(PREFIX):
        what = f"is a {found.step.partition('/')[0]} artifact"
        raise UsageError(reference, what, "an export, its target's name, or an ONNX file", "edgekd artifacts ls")
    return found


def _of_file(reference: str, options: TurnsOptions, console: Console) -> Artifact:
    """The file, taken into the workspace as `edgekd export --from FILE` does."""
    roots = data_roots(options.data_root)
    recipe, folder = start.choose(
        reference, "bench", None, options.workspace, roots, _overrides(options), None, console
    )
    settings = Settings(options.workspace, roots, folder, console, usable_cores() or 1, weight_caches=weight_caches())
    outcomes = run(recipe, steps_of(recipe, until="export"), settings)
    made = [o.artifact for o in outcomes if o.artifact is not None and o.step.kind == "export"]
    if recipe.student.scheme is None:  # a float file is meant as it is
        made = [artifact for artifact in made if artifact.manifest["params"].get("scheme") == "none"] or made
    return made[0]


def _entry(name: str, artifact: Artifact, options: TurnsOptions) -> Entry:
    store = Store(options.workspace)
    recipe = recipes.from_dict(artifact.manifest.get("recipe", {}), f"recipe of {artifact.id}", _overrides(options))
    inputs = {"data": current.upstream(store, artifact)["data"], "export": artifact}
    return Entry(name, _params(recipe, artifact), inputs)


def _params(recipe: Recipe, artifact: Artifact) -> BenchParams:
    """Of the bench step that stands behind an export; a target that the recipe does not name is asked for by its name."""
    for targets in (None, [artifact.step.removeprefix(PREFIX)]):
        for step in steps_of(recipe, until="bench", targets=targets):
            if isinstance(step.params, BenchParams) and step.inputs["export"] == artifact.step:
                return step.params
    raise UsageError(
        artifact.id, f"cannot be measured on {recipe.bench.device}", "a target that it runs", "edgekd devices"
    )


def _overrides(options: TurnsOptions) -> list[str]:
    device = [] if options.device is None else [f"bench.device={options.device}"]
    return [*(options.overrides or []), *device]
