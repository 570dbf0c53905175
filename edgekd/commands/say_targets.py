"""What is said of a chain's targets before it starts: which one a family stands for, and which are not measured and why."""

from __future__ import annotations

from collections.abc import Sequence

from edgekd import profiles, targets
from edgekd.console import Console
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
        MissingTool: `bench` would measure nothing.
    """
    if command not in ("export", "bench", "run"):
        return []
    names = recipe.export if asked is None else asked
    why = "int8: the recipe quantizes" if targets.quantizes(recipe) else "half precision: the recipe does not quantize"
    for family, name in targets.by_family(names, recipe).items():
        console.log(f"{family}: {name} ({why})")
    exported = [step.name.partition("/")[2] for step in steps if step.kind == "export"]
    named = targets.resolve_targets(names, "export", recipe)
    kinds = {profiles.target(name).name: profiles.target(name) for name in named}
    left = {name: reason for name in exported if (reason := targets.unmeasured(recipe, kinds[name]))}
    if command == "bench" and left and len(left) == len(exported):
        name, reason = next(iter(left.items()))
        raise targets.not_here("bench", name, reason)
    if command != "export":
        for name, reason in left.items():
            console.log(f"not measured: {name}: {reason}")
    return [f"export/{name}" for name in left]
