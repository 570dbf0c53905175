"""`edgekd compare`: methods on one recipe, the same seeds and budget for all, and what may be said of their differences."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekd.analysis import compared
from edgekd.artifact import Artifact, canonical
from edgekd.commands import budget, compare_plan, output
from edgekd.commands.compare_plan import Made
from edgekd.commands.students import FOLDERS, Asked, Students, naming, record, rehearsed, require_alone
from edgekd.comparison import Comparison, shortened
from edgekd.comparison import compared as comparison_of
from edgekd.console import Console
from edgekd.durable import inside, write_whole
from edgekd.errors import UsageError
from edgekd.recipe import Recipe
from edgekd.report import compared as words

REHEARSED = 2  # batches of each method before the first student: the second one meets what the first has left


@dataclass(frozen=True)
class CompareOptions:
    """The command line of `edgekd compare`, as typed."""

    asked: Asked
    methods: str
    seeds: str
    epochs: int | None
    minutes: float | None
    select: str | None
    dry_run: bool
    output: Path | None
    json: bool


def compare(options: CompareOptions) -> None:
    """Make every student that is not made, then print and write the table.

    Raises:
        UsageError: The command line is not of the form that its help names, or the time does not do.
        RecipeError: A method cannot take this recipe: all are looked at before anything is trained.
    """
    since = time.monotonic()
    require_alone(os.environ)
    if options.epochs is not None and options.minutes is not None:
        raise UsageError("--minutes", "beside --epochs", "one budget", "leave out one of them")
    console = Console()
    given, settings = options.asked.opened(console)
    with given.placed():
        comparison = comparison_of(shortened(given, options.epochs, options.select), options.methods, options.seeds)
    students = Students(settings)
    if options.minutes is not None:
        comparison = _budgeted(comparison, students, options, options.minutes, since)
    made = _made(comparison, students)
    if options.dry_run:
        compare_plan.show(comparison, students, made, options.json)
        return
    for line in compare_plan.lines(comparison, students, made):
        console.log(line)
    place = options.output or _folder(comparison, settings.workspace)
    place.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written is found now, not after training
    _train(comparison, students, made)
    facts = _facts(comparison, students, made)
    _write(place, facts)
    _print(facts, place, options)


def _budgeted(
    comparison: Comparison, students: Students, options: CompareOptions, minutes: float, since: float
) -> Comparison:
    """The comparison with the epochs that fit into `--minutes`."""
    folder = _folder(comparison, students.settings.workspace)
    folder = folder.with_name(f"{folder.name}-{minutes:g}min")
    chosen = budget.recorded(folder)
    if chosen is None and options.dry_run:
        raise UsageError("--dry-run", "the epochs of --minutes are chosen when it runs", "--epochs N", "--epochs 30")
    if chosen is None:
        students.upstream([comparison.student(method, comparison.seeds[0]) for method in comparison.methods])
        chosen = budget.choose(comparison, students, minutes, since, folder)
    slowest = chosen["slowest"]
    students.settings.console.log(
        f"{chosen['epochs']} epochs each fit into {minutes:g} minutes; the slowest is {slowest} with "
        f"{chosen['epoch_seconds'][slowest]:.3g} s an epoch (kept in {folder / budget.FILE})"
    )
    return replace(comparison, recipe=shortened(comparison.recipe, int(chosen["epochs"]), None))


def _made(comparison: Comparison, students: Students) -> dict[str, dict[int, Artifact]]:
    """The students that are there, by method and seed."""
    made: dict[str, dict[int, Artifact]] = {method.label: {} for method in comparison.methods}
    for method, seed in comparison.in_turn():
        student = students.found(comparison.student(method, seed)).get("student")
        if student is not None:
            made[method.label][seed] = student
    return made


def _train(comparison: Comparison, students: Students, made: dict[str, dict[int, Artifact]]) -> None:
    """Make the students that are missing; what is made is noted at once, so that nothing is lost when this is stopped."""
    workspace, console = students.settings.workspace, students.settings.console
    missing = [(method, seed) for method, seed in comparison.in_turn() if seed not in made[method.label]]
    first: dict[str, Recipe] = {}  # of each method that has any
    for method, seed in missing:
        first.setdefault(method.label, comparison.student(method, seed))
    if first:
        students.upstream(list(first.values()))
        console.log(f"trying {len(first)} methods on {REHEARSED} batches each")
    for label, recipe in first.items():
        with naming(label):
            rehearsed(students, recipe, REHEARSED, compiled=False)
    for number, (method, seed) in enumerate(missing):
        console.log(f"student {number + 1} of {len(missing)}: {method.label}, seed {seed}")
        with naming(method.label, seed):
            student = students.student(comparison.student(method, seed)).artifact
        assert student is not None
        made[method.label][seed] = student
        record(_folder(comparison, workspace), workspace, [a.id for seeds in made.values() for a in seeds.values()])


def _facts(comparison: Comparison, students: Students, made: Made) -> dict[str, Any]:
    """Everything that the comparison says, as plain data."""
    recipe = comparison.recipe
    taught = next((m for m in comparison.methods if recipe.teacher is not None and m.label != comparison.plain), None)
    done = students.found(comparison.student(taught, comparison.seeds[0])) if taught is not None else {}
    rows = compared.table(comparison, made, done.get("teacher"))
    first = made[comparison.methods[0].label][comparison.seeds[0]]
    fit = recipe.student.fit
    assert fit is not None  # refused by `compared`
    return {
        "command": "compare",
        "name": recipe.name,
        "digest": comparison.digest,
        "student": recipe.student.model,
        "teacher": recipe.teacher.model if recipe.teacher is not None else None,
        "seeds": list(comparison.seeds),
        "epochs": fit.epochs,
        "keep": fit.keep,
        "plain": comparison.plain,
        "usual": comparison.usual,
        "device": first.manifest["environment"]["device"],
        "precision": first.manifest["environment"]["precision"],
        "n_test": first.metrics["n_test"],
        "smallest": compare_plan.smallest(comparison, made),
        "comparisons": max((d.get("comparisons", 0) for row in rows for d in row["differences"]), default=0),
        "methods": rows,
        "recipe": recipe.model_dump(mode="json"),
    }


def _folder(comparison: Comparison, workspace: Path) -> Path:
    return inside(workspace, workspace / FOLDERS[0] / f"{comparison.recipe.name}-{comparison.digest[:8]}")


def _write(place: Path, facts: Mapping[str, Any]) -> None:
    from edgekd.report.compared_plot import png

    write_whole(place / "compare.json", canonical({"schema_version": output.SCHEMA_VERSION, **facts}))
    write_whole(place / "compare.md", words.markdown(facts).encode())
    write_whole(place / "compare.png", png(facts))


def _print(facts: Mapping[str, Any], place: Path, options: CompareOptions) -> None:
    if options.json:
        output.print_json({**facts, "written": str(place)})
        return
    head = words.columns(facts)
    output.print_table(head, [words.cells(facts, row) for row in facts["methods"]], right=head[1:])
    for line in (*words.verdicts(facts), *words.notes(facts)):
        output.say(line)
    output.say(f"written: {place}/compare.md, compare.json, compare.png")
    output.next_command(f"edgekd run{options.asked.again()}")
