"""Students of one recipe that differ in a few values: what they share is made once, and each is an ordinary artifact."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekd import recipe as recipes
from edgekd import records
from edgekd.artifact import Artifact, canonical
from edgekd.commands import current
from edgekd.commands.chain import data_roots, weight_caches
from edgekd.commands.find_recipe import find_recipe
from edgekd.console import Console
from edgekd.durable import inside, write_whole
from edgekd.errors import EdgekdError, IntegrityError, UsageError
from edgekd.keys import Settings, context_of, prepare
from edgekd.pipeline import Outcome, check_all, look, make, outlook, run, steps_of
from edgekd.plan import Step
from edgekd.recipe import Recipe
from edgekd.runner.state import usable_cores

FOLDERS, RUNS = ("comparisons", "tunings"), "runs.json"
SHARED = ("data", "teacher")  # steps that no student's values change


@dataclass(frozen=True)
class Asked:
    """The part of a command line that says where and from what students are made."""

    recipe: str | None
    workspace: Path
    data_root: list[Path] | None
    overrides: list[str] | None
    threads: int | None

    def opened(self, console: Console) -> tuple[Recipe, Settings]:
        """The recipe, and how steps run here.

        Raises:
            UsageError: There is no recipe.
            RecipeError: It is wrong.
        """
        overrides = list(self.overrides or [])
        if self.recipe is not None:
            path = find_recipe(self.recipe)
            recipe, folder = recipes.load(path, overrides), path.parent
        else:
            found = current.require(self.workspace, "--recipe FILE, or a run to go on from")
            console.log(f"recipe {found.name} (the current run of {self.workspace})")
            recipe, folder = recipes.from_dict(found.recipe, f"recipe {found.name}", overrides), found.folder  # type: ignore[assignment]
        roots, threads = data_roots(self.data_root), self.threads or usable_cores() or 1
        return recipe, Settings(self.workspace, roots, folder, console, threads, weight_caches=weight_caches())

    def again(self, values: Sequence[str] = ()) -> str:
        """What to add to a command that is to take the same recipe, in the same workspace, with more `--set` values."""
        parts = [] if self.recipe is None else ["--recipe", self.recipe]
        for value in (*(self.overrides or ()), *values):
            parts += ["--set", value]
        return "".join(f" {shlex.quote(part)}" for part in parts) + current.option(self.workspace, self.data_root)


@dataclass
class Students:
    """Finds and makes students.

    Attributes:
        settings: How steps run.
        prepared: Steps whose files were hashed before, by what they are: hashing a data set takes seconds.
    """

    settings: Settings
    prepared: dict[bytes, Step] = field(default_factory=dict)

    def steps(self, recipe: Recipe) -> list[Step]:
        """The steps up to the student, upstream first, with what only this machine can tell."""
        with recipe.placed():
            return [self._prepared(step) for step in steps_of(recipe, until="student")]

    def outcomes(self, recipe: Recipe) -> list[Outcome]:
        """What is made of a student's steps, and what is to make; nothing is made."""
        return outlook(self.steps(recipe), self.settings)

    def found(self, recipe: Recipe) -> dict[str, Artifact]:
        """What of a student's steps is made, by name; none behind one that is not."""
        return {o.step.name: o.artifact for o in self.outcomes(recipe) if o.artifact is not None}

    def require_possible(self, wanted: Sequence[Recipe]) -> None:
        """Check each student as far as it can be known now: networks, method, taps, settings.

        Raises:
            EdgekdError: As the stages' checks raise.
        """
        for recipe in wanted:
            with recipe.placed():
                check_all(self.steps(recipe), self.found(recipe), self.settings)

    def upstream(self, wanted: Sequence[Recipe]) -> None:
        """Make what comes before the students. They are checked before anything is trained, and again when data are known."""
        self.require_possible(wanted)
        first = max(wanted, key=lambda recipe: len(steps_of(recipe, until="student")))
        if "data" not in self.found(first):
            self.data(first)
            self.require_possible(wanted)
        run(first, [step for step in steps_of(first, until="student") if step.name in SHARED], self.settings)
        for recipe in wanted:
            self._make(recipe, self.steps(recipe)[:-1])

    def data(self, recipe: Recipe) -> Artifact:
        """The data, made unless they are there."""
        artifact = run(recipe, steps_of(recipe, until="data"), self.settings)[0].artifact
        assert artifact is not None
        return artifact

    def student(self, recipe: Recipe) -> Outcome:
        """The student, made unless it is there; what comes before it is there."""
        return self._make(recipe, self.steps(recipe))[-1]

    def inputs(self, recipe: Recipe) -> tuple[Step, Mapping[str, Artifact]]:
        """The student's step and its inputs by role, for a look at what it would do."""
        step, done = self.steps(recipe)[-1], self.found(recipe)
        return step, {role: done[name] for role, name in step.inputs.items()}

    def _make(self, recipe: Recipe, steps: Sequence[Step]) -> list[Outcome]:
        done: dict[str, Artifact] = {}
        outcomes = []
        with recipe.placed():
            for step in steps:
                outcome = look(step, done, self.settings)
                if outcome.artifact is None:
                    outcome = make(recipe, outcome, done, self.settings)
                assert outcome.artifact is not None
                done[step.name] = outcome.artifact
                outcomes.append(outcome)
        return outcomes

    def _prepared(self, step: Step) -> Step:
        known = canonical({"step": step.name, "params": step.params.model_dump(mode="json")})
        if known not in self.prepared:
            self.prepared[known] = prepare(step, self.settings)
        return self.prepared[known]


def rehearsed(students: Students, recipe: Recipe, batches: int, compiled: bool) -> float:
    """Seconds an image of a student's training, from a few batches that are kept nowhere.

    What a method cannot do with these two networks and these data fails here, before the first student is trained.
    """
    from edgekd.stages import distill

    step, inputs = students.inputs(recipe)
    context = replace(context_of(step.params, students.settings), console=Console(quiet=True))
    with recipe.placed():
        return distill.rehearse(step.params, inputs, context, batches, compiled)  # type: ignore[arg-type]


@contextmanager
def naming(method: str, seed: int | None = None) -> Iterator[None]:
    """Errors raised inside say which student they are about."""
    try:
        yield
    except EdgekdError as error:
        if method not in error.where:
            error.where = f"method {method}{'' if seed is None else f', seed {seed}'}: {error.where}"
        raise


def record(folder: Path, workspace: Path, students: Sequence[str]) -> None:
    """Note the ids of students: `artifacts gc` keeps what is noted."""
    ids = sorted(set(students))
    write_whole(inside(workspace, folder) / RUNS, json.dumps({"artifacts": ids}, indent=1).encode())


def recorded(workspace: Path) -> list[str]:
    """Ids of all students of comparisons and tunings.

    Raises:
        IntegrityError: A note is damaged.
    """
    ids: list[str] = []
    for path in sorted(path for kind in FOLDERS for path in (workspace / kind).glob(f"*/{RUNS}")):
        hint = "remove this file; the same command writes it again"
        values = records.read_json(path, str(path), hint)
        named = values.get("artifacts") if isinstance(values, dict) else None
        if not isinstance(named, list):
            raise IntegrityError(str(path), "is damaged", "{artifacts: [...]}", hint)
        ids += [str(name) for name in named]
    return ids


def require_alone(environment: Mapping[str, str]) -> None:
    """Refuse torchrun.

    Raises:
        UsageError: This is one of several processes.
    """
    if int(environment.get("WORLD_SIZE", "1")) > 1:
        found = "started by torchrun"
        raise UsageError("this command", found, "one process: students are trained one after the other", "edgekd ...")
