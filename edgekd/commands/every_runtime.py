"""`edgekd bench --runtime all`: the same student in every runtime that this machine has, float32 and int8, measured in turn in one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgekd import profiles, registry
from edgekd.analysis import turns as figures
from edgekd.commands import current
from edgekd.commands.bench_turns import FOLDER, work_folder
from edgekd.commands.chain import ChainOptions, choose_recipe, data_roots, pins_of, weight_caches
from edgekd.commands.say_runtimes import finish
from edgekd.commands.say_turns import facts_of
from edgekd.console import Console
from edgekd.errors import EdgekdError, MissingTool, StageFailed, UsageError
from edgekd.keys import Settings
from edgekd.pipeline import Outcome, run, steps_of
from edgekd.plan import bench_params
from edgekd.profiles import Device, Target
from edgekd.recipe import Recipe
from edgekd.runner.state import usable_cores
from edgekd.stages.bench_turns import Entry, measure
from edgekd.targets import fitting
from edgekd.tools import engines, place

ALL = "all"
PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class Left:
    """A target that is not measured, and why."""

    target: str
    why: str
    hint: str


def every_runtime(options: ChainOptions) -> None:
    """Export what is missing, measure all in turn, print the table and which runtime to ship.

    Raises:
        UsageError: The device is not this machine.
        MissingTool: Fewer than two files can be measured here.
        StageFailed: Fewer than two of them could be made.
        MeasurementVoid: The machine changed under the measurement.
    """
    console = Console()
    recipe, folder = choose_recipe(options, console)
    device = _device(recipe)
    wanted, left = choose(device)
    for one in left:
        console.log(f"left out: {one.target}: {one.why}" + (f" (try: {one.hint})" if one.hint else ""))
    if len(wanted) < 2:
        hint = left[0].hint if left else "edgekd tools ls"
        raise MissingTool("--runtime all", f"{len(wanted)} files can be measured here", "two or more", hint)
    settings = Settings(
        workspace=options.workspace,
        data_roots=data_roots(options.data_root),
        recipe_dir=folder,
        console=console,
        threads=options.threads or usable_cores() or 1,
        weight_caches=weight_caches(),
    )
    outcomes, refused = export_each(recipe, [target.name for target in wanted], settings, options)
    left += refused
    current.record(options.workspace, recipe, folder, list(outcomes.values()))
    entries = [_entry(recipe, target, device, outcomes) for target in wanted if f"export/{target.name}" in outcomes]
    if len(entries) < 2:
        said = f"{len(entries)} of {len(wanted)} files could be made"
        raise StageFailed("--runtime all", f"{said}; {left[-1].target}: {left[-1].why}", "two or more", left[-1].hint)
    console.log(f"{len(entries)} files take turns: {', '.join(entry.name for entry in entries)}")
    found = measure(entries, work_folder(options.workspace), console.log)
    facts = facts_of(
        "bench --runtime all", entries, found, figures.effects(found.rounds.blocks, sittings=found.rounds.sittings), 0
    )
    facts["left_out"] = [vars(one) for one in left]
    facts["runtimes"] = {name: result["runtime"] for name, result in found.results.items()}
    facts["files"] = {entry.name: _bytes(entry) for entry in entries}
    facts["precisions"] = {entry.name: _precision(entry) for entry in entries}
    finish(facts, options.output or options.workspace / FOLDER / "runtime-all", options.json, options.workspace)


def refuse(files: Sequence[str] | None, rival: str | None, targets: Sequence[str] | None) -> None:
    """What `--runtime all` has no use for.

    Raises:
        UsageError: It is there.
    """
    given = {"files": files, "--against": rival, "--format": targets}
    for name, value in given.items():
        if value:
            found = f"{name} is not taken here: all that can be measured is"
            raise UsageError("edgekd bench --runtime all", found, "--device, and --recipe or --from")


def choose(device: Device) -> tuple[list[Target], list[Left]]:
    """The targets that a device's runtimes can run, float32 before int8; and those that lack a tool here."""
    wanted, left = [], []
    able = [target for target in profiles.targets().values() if fitting(device, target)]
    able = [target for target in able if profiles.precision(target.scheme) in PRECISIONS]
    for target in sorted(able, key=lambda one: (_runtime(one, device), profiles.precision(one.scheme))):
        where = f"export/{target.name}"
        try:
            engines.python(_runtime(target, device), where)
            for tool in registry.find("exporters", target.exporter).attributes.get("needs", ()):
                place.require(tool, where)
        except MissingTool as error:
            left.append(Left(target.name, error.found, error.hint))
            continue
        wanted.append(target)
    return wanted, left


def export_each(
    recipe: Recipe, names: Sequence[str], settings: Settings, options: ChainOptions
) -> tuple[dict[str, Outcome], list[Left]]:
    """Make every target; one that fails is left out and named, the others go on."""
    done: dict[str, Outcome] = {}
    left = []
    for name in names:
        steps = steps_of(recipe, until="export", targets=[name])
        try:
            made = run(recipe, steps, replace(settings, pins=pins_of(options, steps, settings.console)))
        except EdgekdError as error:
            settings.console.log(f"left out: {name}: {error.where}: {error.found}")
            left.append(Left(name, f"{error.where}: {error.found}", error.hint))
            continue
        done |= {outcome.step.name: outcome for outcome in made}
    return done, left


def _device(recipe: Recipe) -> Device:
    device = profiles.device(recipe.bench.device)
    if device.transport != "local":
        found = f"device {device.name} is reached by {device.transport}"
        raise UsageError("--runtime all", found, "this machine", "edgekd bench --device cpu --runtime all")
    return device


def _runtime(target: Target, device: Device) -> str:
    """The first of the device's runtimes that runs it."""
    return fitting(device, target)[0]


def _entry(recipe: Recipe, target: Target, device: Device, outcomes: Mapping[str, Outcome]) -> Entry:
    export, data = outcomes[f"export/{target.name}"].artifact, outcomes["data"].artifact
    assert export is not None and data is not None  # made, or an error
    params = bench_params(recipe, target, device, _runtime(target, device))
    return Entry(target.name, params, {"data": data, "export": export})


def _bytes(entry: Entry) -> int:
    """What is shipped: the file that is loaded and those beside it."""
    files: Mapping[str, Any] = entry.inputs["export"].manifest["files"]
    return sum(int(files[name]["bytes"]) for name in files if name.startswith("model.") and name != "model.json")


def _precision(entry: Entry) -> str:
    return profiles.precision(str(entry.inputs["export"].manifest["params"].get("scheme", "none")))
