"""The current run of a workspace: the last recipe used there and its artifacts, like git's HEAD."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact
from edgekd.durable import write_whole
from edgekd.errors import UsageError
from edgekd.pipeline import Outcome
from edgekd.recipe import Recipe
from edgekd.store import Store


@dataclass(frozen=True)
class Run:
    """What was last made from a recipe: its name, the recipe with overrides applied, and {step: artifact id}."""

    name: str
    recipe: Mapping[str, Any]
    recipe_dir: str | None
    steps: Mapping[str, str]


def record(workspace: Path, recipe: Recipe, recipe_dir: Path | None, outcomes: Sequence[Outcome]) -> Run:
    """Make a recipe's artifacts, as far as they are made, the workspace's current run."""
    values = recipe.model_dump(mode="json")
    steps = {o.step.name: o.artifact.id for o in outcomes if o.artifact is not None}
    old = _read(workspace, recipe.name)
    if old is not None and old.recipe == values:
        kept = _still_there(Store(workspace), old.steps, steps)
        steps = {step: (kept | steps)[step] for step in [*old.steps, *steps] if step in kept or step in steps}
    run = Run(recipe.name, values, str(recipe_dir.resolve()) if recipe_dir else None, steps)
    text = json.dumps({**vars(run), "steps": list(steps.items())}, indent=1, ensure_ascii=False)
    write_whole(workspace / "runs" / f"{run.name}.json", text.encode())
    write_whole(workspace / "HEAD", run.name.encode())
    return run


def head(workspace: Path) -> Run | None:
    """The current run, or None."""
    path = workspace / "HEAD"
    return _read(workspace, path.read_text(encoding="utf-8").strip()) if path.is_file() else None


def require(workspace: Path, why: str) -> Run:
    """The current run.

    Raises:
        UsageError: There is none.
    """
    run = head(workspace)
    if run is None:
        raise UsageError(f"workspace {workspace}", "nothing was made here yet", why, "edgekd run --recipe quickstart")
    return run


def all_runs(workspace: Path) -> list[Run]:
    """Every recipe's last run."""
    found = (_read(workspace, path.stem) for path in sorted((workspace / "runs").glob("*.json")))
    return [run for run in found if run is not None]


def resolve(workspace: Path, reference: str) -> Artifact:
    """An artifact by step name of the current run, else by id, prefix, tag or `latest`.

    Raises:
        UsageError: Nothing answers to the name.
    """
    store = Store(workspace)
    run = head(workspace)
    if run is not None and reference in run.steps:
        return store.resolve(run.steps[reference])
    return store.resolve(reference)


def artifacts(workspace: Path, run: Run) -> dict[str, Artifact]:
    """{step: artifact} of a run, in the order of the chain; what is gone is left out."""
    store = Store(workspace)
    found = {step: store.get(name) for step, name in run.steps.items()}
    return {step: artifact for step, artifact in found.items() if artifact is not None}


def _still_there(store: Store, old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """Steps behind the ones just made stay in the run only while they were made from them."""
    current = {**old, **new}
    kept: dict[str, str] = {}
    for step, name in old.items():
        artifact = store.get(name)
        if artifact is not None and set(artifact.inputs.values()) <= set(current.values()):
            kept[step] = name
        elif step not in new:
            del current[step]  # and with it everything that was made from it
    return kept


def _read(workspace: Path, name: str) -> Run | None:
    path = workspace / "runs" / f"{name}.json"
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_bytes())
        return Run(values["name"], values["recipe"], values["recipe_dir"], dict(values["steps"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            str(path), f"is damaged ({error})", "a run record", "name the recipe again with --recipe"
        ) from error
