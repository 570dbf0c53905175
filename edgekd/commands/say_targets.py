"""What is said of a chain's targets before it starts: which one a family stands for, and which are not measured and why."""

from __future__ import annotations

from collections.abc import Sequence

from edgekd import devices, profiles, targets
from edgekd.console import Console
from edgekd.params import BenchParams
from edgekd.plan import Step
from edgekd.recipe import Recipe


def say_targets(
    command: str, recipe: Recipe, asked: Sequence[str] | None, steps: Sequence[Step], console: Console
) -> list[str]:
    """Log it, before any work.

    Args:
        command: The command as typed.
        recipe: The recipe.
        asked: `--format`.
        steps: The plan; a target that its device cannot run has no `bench` step.
        console: Where it is said.

    Returns:
        The `export/...` steps of targets that the recipe's device cannot run.

    Raises:
        EngineMismatch: `bench` would measure nothing: the file is for another chip than the device's.
        MissingTool: `bench` would measure nothing for another reason.
    """
    if command not in ("export", "bench", "run"):
        return []
    names = recipe.export if asked is None else asked
    why = "int8: the recipe quantizes" if targets.quantizes(recipe) else "float: the recipe does not quantize"
    for family, name in targets.by_family(names, recipe).items():
        console.log(f"{family}: {name} ({why})")
    named = targets.resolve_targets(names, "export", recipe)
    kinds = {profiles.target(name).name: profiles.target(name) for name in named}
    steps_named = [step.name.partition("/")[2] for step in steps if step.kind == "export"]
    exported = [name for name in steps_named if name in kinds]  # not what one of them is only made from
    left = {name: reason for name in exported if (reason := targets.unmeasured(recipe, kinds[name]))}
    if command == "bench" and left and len(left) == len(exported):
        name, reason = next(iter(left.items()))
        targets.require_chip(recipe, kinds[name])
        raise targets.not_here("bench", name, reason)
    if command != "export":
        for name, reason in left.items():
            console.log(f"not measured: {name}: {reason}")
    return [f"export/{name}" for name in left]


def say_devices(recipe: Recipe, steps: Sequence[Step], console: Console) -> None:
    """Log which device a name or family was resolved to, and in which runtime each target is measured there."""
    measured = [step for step in steps if isinstance(step.params, BenchParams)]
    if not measured:
        return
    for name in devices.split(recipe.bench.device):
        said = devices.said(name, devices.resolve(name))
        if said:
            console.log(said)
    for step in measured:
        if recipe.bench.runtime is None and isinstance(step.params, BenchParams) and step.params.board is not None:
            console.log(f"{step.name}: in {step.params.runtime}, on {step.params.provider}")
