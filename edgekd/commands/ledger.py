"""`edgekd ledger`: what each step of a chain lost, from the answers stored in it; nothing is run or made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd import recipe as recipes
from edgekd.analysis import ledger as books
from edgekd.artifact import Artifact
from edgekd.commands import current, output
from edgekd.commands.chain import data_roots, weight_caches
from edgekd.commands.find_recipe import find_recipe
from edgekd.console import Console
from edgekd.errors import CheckFailed, UsageError
from edgekd.keys import Settings
from edgekd.pipeline import dry_run, steps_of
from edgekd.recipe import Recipe
from edgekd.report import accounts
from edgekd.store import Store, age


@dataclass(frozen=True)
class LedgerOptions:
    """The command line of `edgekd ledger`, as typed."""

    recipe: str | None
    source: str | None
    workspace: Path
    data_root: list[Path] | None
    overrides: list[str] | None
    json: bool


def ledger(options: LedgerOptions) -> None:
    """Print the ledger of the current run, of what is made of a recipe, or of the chain that an artifact belongs to.

    Raises:
        UsageError: Nothing there was evaluated on test.
        CheckFailed: A row fails the recipe's gate; the ledger is printed first.
    """
    recipe, artifacts = _chosen(options)
    rows = books.ledger(artifacts, recipe.gate)
    if not rows:
        hint = f"edgekd run{current.option(options.workspace, options.data_root)}"
        raise UsageError(f"recipe {recipe.name}", "nothing was evaluated on test yet", "a teacher or a student", hint)
    gate = None if recipe.gate is None else recipe.gate.model_dump(exclude_none=True)
    facts = {
        "recipe": recipe.name,
        "gate": gate,
        "passed": None if gate is None else not books.failed(rows),
        "rows": rows,
    }
    missed = _missed(rows)
    if options.json:
        if missed is not None:
            output.fail(missed, facts)
        output.print_json(facts)
        return
    _print(recipe, rows)
    if missed is not None:
        raise missed
    output.next_command(f"edgekd report{current.option(options.workspace)}")


def _chosen(options: LedgerOptions) -> tuple[Recipe, Mapping[str, Artifact]]:
    """The recipe, and what is made of it."""
    overrides, console = list(options.overrides or []), Console()
    if options.source is not None:
        chosen = current.resolve(options.workspace, options.source)
        console.log(f"the chain of {chosen.id} (chosen with --from)")
        made_with = recipes.from_dict(chosen.manifest.get("recipe", {}), f"recipe of {chosen.id}", overrides)
        return made_with, _chain_of(Store(options.workspace), chosen)
    if options.recipe is not None:
        path = find_recipe(options.recipe)
        recipe = recipes.load(path, overrides)
        return recipe, _looked_up(recipe, path.parent, options, console)
    run = current.require(options.workspace, "--recipe FILE, or a finished run")
    console.log(f"recipe {run.name} (the current run of {options.workspace})")
    made_with, recipe = (recipes.from_dict(run.recipe, f"recipe {run.name}", more) for more in ((), overrides))
    ungated = [{**asked.model_dump(), "gate": None} for asked in (made_with, recipe)]
    if ungated[0] == ungated[1]:
        return recipe, current.artifacts(options.workspace, run)
    return recipe, _looked_up(recipe, run.folder, options, console)


def _looked_up(recipe: Recipe, folder: Path | None, options: LedgerOptions, console: Console) -> Mapping[str, Artifact]:
    """What `edgekd run` would find made of a recipe."""
    roots = data_roots(options.data_root)
    settings = Settings(options.workspace, roots, folder, console, 1, weight_caches=weight_caches())
    with recipe.placed():
        outcomes = dry_run(steps_of(recipe), settings)
    return {o.step.name: o.artifact for o in outcomes if o.artifact is not None}


def _chain_of(store: Store, chosen: Artifact) -> dict[str, Artifact]:
    """An artifact, everything that it was made from, and the newest of each step that was made from those alone."""
    chain = current.upstream(store, chosen)
    later = sorted((a for a in store.all() if a.step not in chain and a.inputs), key=age, reverse=True)
    found = True
    while found:
        ids = {artifact.id for artifact in chain.values()}
        fitting = [a for a in later if a.step not in chain and set(a.inputs.values()) <= ids]
        found = bool(fitting)
        chain |= {a.step: a for a in reversed(fitting)}
    return chain


def _missed(rows: Sequence[Mapping[str, Any]]) -> CheckFailed | None:
    failed = books.failed(rows)
    if not failed:
        return None
    lines = [f"{row['artifact']}: gate {row['gate']['text']}" for row in failed]
    where, _, found = lines[0].partition(": ")
    judged = failed[0]["gate"]
    expected = f"a bound of at most {judged['budget_pp']:g} pp ({judged['key']})"
    return CheckFailed(where, "\n".join([found, *lines[1:]]), expected, judged["hint"])


def _print(recipe: Recipe, rows: Sequence[Mapping[str, Any]]) -> None:
    gate = None if recipe.gate is None else recipe.gate.budgeted
    demanded = "" if gate is None else f"; gate: at most {gate.total_pp:g} pp in all"
    output.say(f"accuracy ledger of {recipe.name}, test images{demanded}")
    output.print_table(accounts.COLUMNS, [accounts.cells(row) for row in rows], right=accounts.NUMERIC)
    output.say(accounts.LEGEND)
