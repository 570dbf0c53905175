"""`edgekd tune`: values of a recipe that are best on validation. Test is neither read nor shown.

Each trial is an ordinary student. The search is a function of its seed and of the results, so a stopped tuning goes on by
asking for the same values again: what is trained is found, and only what is missing is trained.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import recipe as recipes
from edgekd import records, search
from edgekd.analysis.compared import HISTORY
from edgekd.artifact import Artifact, canonical
from edgekd.commands import output
from edgekd.commands.students import FOLDERS, Asked, Students, record, require_alone
from edgekd.comparison import shortened
from edgekd.console import Console
from edgekd.durable import inside, write_whole
from edgekd.errors import Diverged, IntegrityError, MissingTool, RecipeError
from edgekd.pipeline import steps_of
from edgekd.recipe import Recipe

if TYPE_CHECKING:
    import optuna

FILE = "trials.json"
FIGURE = "val_top1_percent"


@dataclass(frozen=True)
class TuneOptions:
    """The command line of `edgekd tune`, as typed."""

    asked: Asked
    parameters: list[str]
    trials: int
    seed: int
    epochs: int | None
    json: bool


@dataclass(frozen=True)
class Tried:
    """One trial.

    Attributes:
        number: From 0.
        values: Overrides, one a parameter.
        val_percent: Top-1 on validation after the last epoch; None: it cannot be trained.
        artifact: The student's id; None likewise.
        why: What is in the way, when it cannot be trained.
    """

    number: int
    values: tuple[str, ...]
    val_percent: float | None = None
    artifact: str | None = None
    why: str = ""


def tune(options: TuneOptions) -> None:
    """Train the trials that are not trained, then print all of them and the best one's values.

    Raises:
        MissingTool: Optuna is not installed.
        UsageError: A `--param` that is none.
        RecipeError: No validation images, a key that the recipe does not have, or no trial that could be trained.
    """
    require_alone(os.environ)
    parameters = search.read(options.parameters)
    study = _study(options.seed)
    console = Console()
    given, settings = options.asked.opened(console)
    with given.placed():
        base = shortened(given, options.epochs, None)
    students = Students(settings)
    _require_keys(base, parameters)
    _require_validation(base, students)
    folder = _folder(base, parameters, options.seed, settings.workspace)
    tried = list(_trials(study, base, parameters, options.trials, students, folder))
    best = max((trial for trial in tried if trial.val_percent is not None), key=_percent, default=None)
    if best is None:
        raise RecipeError("--param", f"no trial could be trained: {tried[0].why}", "a range that can be trained")
    _print(options, base, tried, best, folder)


def _study(seed: int) -> optuna.Study:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise MissingTool("edgekd tune", "Optuna is not installed", "optuna", "pip install 'edgekd[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))


def _require_keys(base: Recipe, parameters: Sequence[search.Parameter]) -> None:
    """Raise what is wrong with the keys themselves, before the first trial."""
    steps_of(_recipe(base, [parameter.first for parameter in parameters]), until="student")


def _require_validation(base: Recipe, students: Students) -> None:
    """Find the files of data and teacher. Only decoded data say whether they have a validation split of their own."""
    students.steps(base)
    if base.data.val == 0 and not students.data(base).metrics.get("n_val"):
        found = "0: no image is held out, and test decides nothing"
        raise RecipeError("data.val", found, "validation images", "--set data.val=5000")


def _recipe(base: Recipe, values: Sequence[str]) -> Recipe:
    return recipes.from_dict(base.model_dump(mode="json"), f"recipe {base.name}", values)


def _trials(
    study: optuna.Study,
    base: Recipe,
    parameters: Sequence[search.Parameter],
    n: int,
    students: Students,
    folder: Path,
) -> Iterator[Tried]:
    from optuna.trial import TrialState

    before, done = _read(folder), list[Tried]()
    console = students.settings.console
    for number in range(n):
        trial = study.ask()
        values = tuple(parameter.suggested(trial) for parameter in parameters)
        console.log(f"trial {number + 1} of {n}: {' '.join(values)}")
        known = before.get(number)
        failed = known is not None and known.values == values and known.val_percent is None
        tried = known if failed and known is not None else _one(Tried(number, values), base, students)
        if tried.val_percent is None:
            console.log(f"trial {number + 1} of {n}: left out: {tried.why}")
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, tried.val_percent)
        done.append(tried)
        _write(folder, students, done, before)
        yield tried


def _one(wanted: Tried, base: Recipe, students: Students) -> Tried:
    """Train one trial unless it is there; values that do not go together, or do not train, are no reason to stop."""
    try:
        recipe = _recipe(base, wanted.values)
        student = students.found(recipe).get("student")
        if student is None:
            students.upstream([recipe])
            student = students.student(recipe).artifact
    except (RecipeError, Diverged) as error:
        return replace(wanted, why=f"{error.where}: {error.found}")
    assert student is not None
    return replace(wanted, val_percent=_last(student), artifact=student.id)


def _last(student: Artifact) -> float:
    """Validation top-1 of the last epoch, percent."""
    rows = json.loads((student.path / HISTORY).read_text(encoding="utf-8"))
    return float(rows[-1][FIGURE])


def _percent(trial: Tried) -> float:
    return -1.0 if trial.val_percent is None else trial.val_percent


def _folder(base: Recipe, parameters: Sequence[search.Parameter], seed: int, workspace: Path) -> Path:
    """Where the trials are noted: of the same search whatever the number of trials."""
    what = {"recipe": base.model_dump(mode="json"), "parameters": [vars(p) for p in parameters], "seed": seed}
    return inside(workspace, workspace / FOLDERS[1] / f"{base.name}-{hashlib.sha256(canonical(what)).hexdigest()[:8]}")


def _read(folder: Path) -> dict[int, Tried]:
    path, hint = folder / FILE, "remove this file; what was trained is found again"
    if not path.exists():
        return {}
    values = records.read_json(path, str(path), hint)
    try:
        found = [Tried(**{**row, "values": tuple(row["values"])}) for row in values["trials"]]
    except (TypeError, KeyError) as error:
        raise IntegrityError(str(path), f"is damaged ({error})", "the trials of a tuning", hint) from error
    return {trial.number: trial for trial in found}


def _write(folder: Path, students: Students, done: Sequence[Tried], before: dict[int, Tried]) -> None:
    """Note every trial, those of a longer tuning before this one too."""
    workspace = students.settings.workspace
    all_trials = {**before, **{trial.number: trial for trial in done}}
    listed = {"trials": [vars(all_trials[number]) for number in sorted(all_trials)]}
    write_whole(inside(workspace, folder) / FILE, json.dumps(listed, indent=1).encode())
    record(folder, workspace, [trial.artifact for trial in all_trials.values() if trial.artifact is not None])


def _print(options: TuneOptions, base: Recipe, tried: Sequence[Tried], best: Tried, folder: Path) -> None:
    line = " ".join(f"--set {value}" for value in best.values)
    notes = [
        f"the best of {len(tried)} looks better on validation than it is; test it once, or over seeds with edgekd compare"
    ]
    if base.teacher is not None and base.teacher.trained_on == "train+val":
        notes.append("the teacher has seen the validation images in its training: these figures are flattered")
    if options.json:
        facts: dict[str, Any] = {"command": "tune", "trials": [vars(t) for t in tried], "best": vars(best), "set": line}
        output.print_json({**facts, "notes": notes, "written": str(folder)})
        return
    ranked = sorted(tried, key=_percent, reverse=True)
    shown = [
        (
            t.number + 1,
            *(v.partition("=")[2] for v in t.values),
            "–" if t.val_percent is None else f"{t.val_percent:.2f}",
            t.artifact or t.why,
        )
        for t in ranked
    ]
    keys = [value.partition("=")[0] for value in best.values]
    output.print_table(("trial", *keys, "val top-1 %", "student"), shown, right=("trial", *keys, "val top-1 %"))
    for note in notes:
        output.say(note)
    output.say(f"best: trial {best.number + 1}, {best.val_percent:.2f} % of the validation images: {line}")
    output.next_command(f"edgekd distill{options.asked.again(best.values)}")
