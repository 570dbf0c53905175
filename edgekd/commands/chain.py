"""`run train distill quantize export bench`: one chain, six goals."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from edgekd import devices
from edgekd import recipe as recipes
from edgekd.artifact import Artifact
from edgekd.commands import current, engine_build, output, start
from edgekd.commands.find_recipe import find_recipe
from edgekd.commands.processes import COMMAND, group_of
from edgekd.commands.say_targets import say_devices, say_targets
from edgekd.commands.side_by_side import Together, run_together
from edgekd.console import Console
from edgekd.errors import UsageError
from edgekd.fit.distributed import Group
from edgekd.keys import Settings
from edgekd.pipeline import Outcome, dry_run, steps_of
from edgekd.plan import Step
from edgekd.recipe import Recipe
from edgekd.runner.state import usable_cores
from edgekd.stages import joint
from edgekd.store import Store

NEXT = {
    "train": "edgekd distill",
    "distill": "edgekd quantize",
    "quantize": "edgekd export",
    "export": "edgekd bench",
    "bench": "edgekd eval",
    "run": "edgekd predict IMAGE",
}
ROOTLESS = ("bench", "run")  # what follows them takes no --data-root


@dataclass(frozen=True)
class ChainOptions:
    """The command line of a chain command, as typed."""

    command: str
    recipe: str | None
    workspace: Path
    data_root: list[Path] | None
    source: str | None
    overrides: list[str] | None
    dry_run: bool
    force: bool
    output: Path | None
    threads: int | None
    json: bool
    targets: list[str] | None = None
    device: str | None = None
    build: str = engine_build.DEVICE


def chain(goal: str, options: ChainOptions) -> None:
    """Bring the chain to a goal and print what became of it; under torchrun rank 0 does, and the others help it train."""
    with group_of(os.environ) as group:
        if group.board is None or group.leads:
            _chain(goal, options, group)
        else:
            joint.follow(group, group.board)


def _chain(goal: str, options: ChainOptions, group: Group) -> None:
    console = Console()
    if goal == "bench" and options.device is not None:
        for name in devices.split(options.device):
            devices.resolve(name)  # a board that is not there is said before a recipe is looked for
    recipe, recipe_dir = choose_recipe(options, console)
    steps = steps_of(recipe, until=goal, targets=options.targets)
    left = say_targets(options.command, recipe, options.targets, steps, console)
    say_devices(recipe, steps, console)
    if options.build == engine_build.HERE:
        engine_build.require(steps)
    pins = pins_of(options, steps, console)
    settings = Settings(
        workspace=options.workspace,
        data_roots=data_roots(options.data_root),
        recipe_dir=recipe_dir,
        console=console,
        threads=options.threads or max((usable_cores() or 1) // group.local_world, 1),
        force=_forced(goal, options, steps),
        pins=pins,
        weight_caches=weight_caches(),
        group=group,
    )
    if options.dry_run:
        from edgekd.commands.dry import print_plan

        with recipe.placed():
            print_plan(dry_run(steps, settings), settings, options.json)
        return
    if options.output is not None:
        # a folder that cannot be written is found now, not after training
        options.output.mkdir(parents=True, exist_ok=True)
    together = run_together(
        recipe, steps, settings, lambda done: current.record(options.workspace, recipe, recipe_dir, done)
    )
    copied = _copy_out(together.outcomes, goal, options)
    here = options.build == engine_build.HERE
    built = engine_build.build_here(together.outcomes, recipe, console) if here else {}
    _print(options, together, copied, group, left, built)
    if together.failures:
        for name, error in together.failures.items():
            console.log(f"device {name} failed:")
            output.say_error(error)
        raise typer.Exit(together.exit_code)


def choose_recipe(options: ChainOptions, console: Console) -> tuple[Recipe, Path | None]:
    """The recipe to act on: `--recipe`, else the one of `--from`, else the current run's.

    Raises:
        UsageError: There is none.
    """
    overrides = list(options.overrides or [])
    if options.device is not None:
        overrides.append(f"bench.device={options.device}")
    if start.is_file(options.source, options.workspace):
        return start.choose(
            str(options.source),
            options.command,
            options.recipe,
            options.workspace,
            data_roots(options.data_root),
            overrides,
            options.targets,
            console,
        )
    if options.recipe is not None:
        path = find_recipe(options.recipe)
        return recipes.load(path, overrides), path.parent
    if options.source is not None:
        artifact = current.resolve(options.workspace, options.source)
        console.log(f"recipe of {artifact.id} (chosen with --from)")
        return recipes.from_dict(artifact.manifest.get("recipe", {}), f"recipe of {artifact.id}", overrides), None
    found = current.require(options.workspace, "--recipe FILE, or a run to go on from")
    console.log(f"recipe {found.name} (the current run of {options.workspace})")
    return recipes.from_dict(found.recipe, f"recipe {found.name}", overrides), found.folder


def data_roots(given: list[Path] | None) -> tuple[Path, ...]:
    """`--data-root`, then the folders of EDGEKD_DATA."""
    environment = [Path(part) for part in os.environ.get("EDGEKD_DATA", "").split(os.pathsep) if part]
    return tuple(dict.fromkeys([*(given or []), *environment]))


def weight_caches() -> tuple[Path, ...]:
    """Where torch and Hugging Face keep weights that were fetched before, by the variables that both read."""
    named, home = os.environ, Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    torch = Path(named.get("TORCH_HOME") or home / "torch") / "hub" / "checkpoints"
    return torch, Path(named.get("HF_HUB_CACHE") or Path(named.get("HF_HOME") or home / "huggingface") / "hub")


def pins_of(options: ChainOptions, steps: list[Step], console: Console) -> Mapping[str, Artifact]:
    """The artifact of `--from` and everything that it was made from."""
    if options.source is None or start.is_file(options.source, options.workspace):
        return {}
    first = current.resolve(options.workspace, options.source)
    names = {step.name for step in steps}
    if first.step not in names:
        raise UsageError(f"--from {options.source}", f"is a {first.step}", "a step of this chain: " + ", ".join(names))
    pins = current.upstream(Store(options.workspace), first)
    console.log(f"starting from {first.id}")
    return pins


def _forced(goal: str, options: ChainOptions, steps: list[Step]) -> frozenset[str]:
    own = frozenset(step.name for step in steps if step.kind == goal)
    if options.command == "bench":
        return own  # a benchmark is asked for to be measured, not to be remembered
    if not options.force:
        return frozenset()
    return frozenset({"*"}) if options.command == "run" else own


def _copy_out(outcomes: list[Outcome], goal: str, options: ChainOptions) -> list[str]:
    """`--output`: copies of the goal's artifacts (of `run`: what ships), one folder each."""
    if options.output is None:
        return []
    kind = "export" if options.command == "run" else goal
    copied = []
    for outcome in outcomes:
        if outcome.step.kind == kind and outcome.artifact is not None:
            place = options.output / outcome.step.name.replace("/", "-")
            shutil.copytree(outcome.artifact.path, place, dirs_exist_ok=True)
            copied.append(str(place))
    return copied


def _print(
    options: ChainOptions,
    together: Together,
    copied: list[str],
    group: Group,
    unmeasured: Collection[str],
    built: Mapping[str, Any],
) -> None:
    from edgekd.commands.report import write_report

    outcomes = together.outcomes
    page = write_report(options.workspace, None) if options.command in ("run", "bench") else None
    engines = engine_build.engines([o.step for o in outcomes]) if options.command == "export" else []
    following = _following(options, outcomes, group, unmeasured, engines)
    if options.json:
        steps = [_facts(o, o.artifact) for o in outcomes if o.artifact is not None]
        report = str(page.html) if page else None
        failed = {name: output.error_fields(error) for name, error in together.failures.items()}
        facts = {"command": options.command, "steps": steps, "copied": copied, "report": report, "next": following}
        told = {"engines": {name: built.get(name, engine_build.ON_DEVICE) for name in engines}} if engines else {}
        output.print_json({**facts, **told, **({"failed": failed} if failed else {})})
        return
    if page is not None:
        page.print_table()
        output.say(f"report: {page.html}")
    else:
        rows = [(o.step.name, o.state, o.artifact.path.name, _top1(o.artifact)) for o in outcomes if o.artifact]
        output.print_table(("step", "", "artifact", "top-1 (95 % interval)"), rows)
    for name in engines:
        output.say(f"{name}: " + (engine_build.BUILT if name in built else engine_build.ON_DEVICE))
    for name, said in _unchecked(outcomes).items():
        output.say(f"{name}: {said}, then edgekd lint {name}{current.option(options.workspace)}")
    for place in copied:
        output.say(f"copied: {place}")
    output.next_command(following)


def _following(
    options: ChainOptions, outcomes: list[Outcome], group: Group, unmeasured: Collection[str], engines: list[str]
) -> str:
    """What to type next."""
    sources = {name for o in outcomes for name in o.step.inputs.values()}  # not asked for themselves
    exported = [o.step.name for o in outcomes if o.step.kind == "export" and o.step.name not in sources]
    roots = None if options.command in ROOTLESS else options.data_root
    following = NEXT[options.command] + current.option(options.workspace, roots)
    if options.command == "export" and all(name in unmeasured for name in exported):
        first = exported[0]
        judged = "edgekd ledger" if any(_answered(o) for o in outcomes) else f"edgekd lint {first}"
        following = engine_build.next_command(first, options.build) if first in engines else judged
        following += current.option(options.workspace)
    if group.world > 1 and options.command == "train":
        following = COMMAND.format(group.local_world) + following.removeprefix("edgekd")
    return following


def _unchecked(outcomes: list[Outcome]) -> dict[str, str]:
    """{export: what its family's tool, which was not here when it was made, would need}: a reused file is not held to it later."""
    made = {o.step.name: o.artifact.metrics for o in outcomes if o.artifact is not None}
    return {
        name: str(metrics["tool_check"])
        for name, metrics in made.items()
        if "tool_check" in metrics and "tool_build_seconds" not in metrics
    }


def _answered(outcome: Outcome) -> bool:
    """Whether an export was evaluated where it was made: its row is in the ledger."""
    return outcome.step.kind == "export" and outcome.artifact is not None and "n_test" in outcome.artifact.metrics


def _facts(outcome: Outcome, artifact: Artifact) -> dict[str, Any]:
    return {
        "step": outcome.step.name,
        "state": outcome.state,
        "why": outcome.why,
        "artifact": artifact.id,
        "seconds": round(outcome.seconds, 3),
        "metrics": artifact.metrics,
    }


def _top1(artifact: Artifact) -> str:
    metrics = artifact.metrics
    if "top1_percent" not in metrics:
        return ""
    return (
        f"{metrics['top1_percent']:.2f} % ({metrics['top1_low_percent']:.2f} to {metrics['top1_high_percent']:.2f}, "
        f"n={metrics['n_test']})"
    )
