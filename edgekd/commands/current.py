"""The current run of a workspace: the last recipe used there and its artifacts, like git's HEAD."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgekd import recipe as recipes
from edgekd import records
from edgekd.artifact import ID, STEP, Artifact
from edgekd.commands import WORKSPACE
from edgekd.commands.find_recipe import find_recipe
from edgekd.durable import inside, write_whole
from edgekd.errors import IntegrityError, UsageError
from edgekd.pipeline import Outcome
from edgekd.recipe import NAME, Recipe
from edgekd.store import Store

HINT = "remove this file, then name the recipe again: edgekd run --recipe FILE"


@dataclass(frozen=True)
class Run:
    """What was last made from a recipe: its name, the recipe with overrides applied, and {step: artifact id}."""

    name: str
    recipe: Mapping[str, Any]
    recipe_dir: str | None
    steps: Mapping[str, str]

    @property
    def folder(self) -> Path | None:
        """The folder of the recipe's file, if there was one."""
        return Path(self.recipe_dir) if self.recipe_dir else None


def record(workspace: Path, recipe: Recipe, recipe_dir: Path | None, outcomes: Sequence[Outcome]) -> Run:
    """Make a recipe's artifacts, as far as they are made, the workspace's current run; measured otherwise it is the same run."""
    values = recipe.model_dump(mode="json")
    steps = {o.step.name: o.artifact.id for o in outcomes if o.artifact is not None}
    old = _read(workspace, recipe.name)
    if old is not None and {**old.recipe, "bench": None} == {**values, "bench": None}:
        kept = _still_there(Store(workspace), old.steps, steps)
        steps = {step: (kept | steps)[step] for step in [*old.steps, *steps] if step in kept or step in steps}
    run = Run(recipe.name, values, str(recipe_dir.resolve()) if recipe_dir else None, steps)
    text = json.dumps({**vars(run), "steps": list(steps.items())}, indent=1, ensure_ascii=False)
    write_whole(inside(workspace, workspace / "runs" / f"{run.name}.json"), text.encode())
    write_whole(workspace / "HEAD", run.name.encode())  # a link by that name is replaced, not followed
    return run


def head(workspace: Path) -> Run | None:
    """The current run, or None.

    Raises:
        IntegrityError: HEAD or the run's record is damaged.
    """
    path = workspace / "HEAD"
    if not path.exists() and not path.is_symlink():
        return None
    name = records.read_text(path, str(path), HINT).strip()
    if re.fullmatch(NAME, name) is None:
        raise IntegrityError(str(path), f"is damaged ({name[:80]!r})", "a recipe's name", HINT)
    return _read(workspace, name)


def require(workspace: Path, why: str) -> Run:
    """The current run.

    Raises:
        UsageError: There is none.
    """
    run = head(workspace)
    if run is None:
        hint = f"edgekd run --recipe quickstart{option(workspace)}"
        raise UsageError(f"workspace {workspace}", "nothing was made here yet", why, hint)
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
    run = head(workspace)
    if run is not None and reference in run.steps:
        reference = run.steps[reference]
    try:
        return Store(workspace).resolve(reference)
    except UsageError as error:
        raise UsageError(error.where, error.found, error.expected, f"{error.hint}{option(workspace)}") from error


def option(workspace: Path, roots: Sequence[Path] | None = None) -> str:
    """What to add to a command that is to act on the same workspace.

    Args:
        workspace: As given.
        roots: `--data-root`, where the command that is to be typed takes it.
    """
    parts = [] if workspace == WORKSPACE else ["--workspace", str(workspace)]
    for root in roots or ():
        parts += ["--data-root", str(root)]
    return "".join(f" {shlex.quote(part)}" for part in parts)


def last_run(workspace: Path, recipe: str, command: str) -> Run:
    """The last run of a recipe file or name.

    Args:
        workspace: Where.
        recipe: As typed.
        command: What would run it.

    Raises:
        RecipeError: No such recipe.
        UsageError: It was not run there.
    """
    name = recipes.load(find_recipe(recipe), []).name
    run = next((run for run in all_runs(workspace) if run.name == name), None)
    if run is None:
        hint = f"edgekd {command} --recipe {shlex.quote(recipe)}{option(workspace)}"
        raise UsageError(f"--recipe {recipe}", f"{name} was not run in {workspace}", "a run", hint)
    return run


def upstream(store: Store, last: Artifact) -> dict[str, Artifact]:
    """{step: artifact} of one and of all that it was made from."""
    found, waiting = {last.step: last}, [last]
    while waiting:
        for name in waiting.pop().inputs.values():
            artifact = store.resolve(name)
            if artifact.step not in found:
                found[artifact.step] = artifact
                waiting.append(artifact)
    return found


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
    path = inside(workspace, workspace / "runs") / f"{name}.json"
    if not path.exists() and not path.is_symlink():
        return None
    values = records.read_json(path, str(path), HINT)
    try:
        found = _Record.model_validate(values)
    except ValidationError as error:
        item = error.errors()[0]
        place = ".".join(str(part) for part in item["loc"]) or "the whole"
        raise IntegrityError(
            str(path), f"is damaged ({place:.80}: {item['msg']:.200})", "a run record", HINT
        ) from error
    if found.name != name:
        raise IntegrityError(str(path), f"is the record of {found.name}", f"that of {name}", HINT)
    return Run(found.name, found.recipe, found.recipe_dir, dict(found.steps))


class _Record(BaseModel):
    """`runs/<name>.json`."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=NAME)
    recipe: dict[str, Any]
    recipe_dir: str | None
    steps: list[tuple[Annotated[str, Field(pattern=f"^{STEP}$")], Annotated[str, Field(pattern=f"^{ID.pattern}$")]]]
