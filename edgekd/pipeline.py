"""The loop: keep what is made, make what is not, and say which and why."""

from __future__ import annotations

import hashlib
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from edgekd import manifest, models, registry
from edgekd.artifact import Artifact, Store, canonical
from edgekd.console import Console
from edgekd.errors import RecipeError, StageFailed, nearest
from edgekd.fit.resolve import resolve
from edgekd.plan import BenchParams, DataParams, Params, Step, StudentParams, TeacherParams, plan
from edgekd.recipe import Fit, Recipe
from edgekd.stages.base import RunContext, Stage, StageResult

State = Literal["made", "reused", "to make", "unknown"]


@dataclass(frozen=True)
class Settings:
    """How a pipeline run behaves; nothing in here changes a result.

    Attributes:
        workspace: Folder of the artifacts.
        data_roots: Where data sets and checkpoints are looked up.
        recipe_dir: Folder of the recipe file, if there is one.
        console: Progress and log.
        threads: CPU threads of training.
        force: Names of the steps to make again although they are there; `*` = all.
        pins: {step name: artifact} to use as they are, whatever their key (`--from`).
    """

    workspace: Path
    data_roots: tuple[Path, ...]
    recipe_dir: Path | None
    console: Console
    threads: int
    force: frozenset[str] = frozenset()
    pins: Mapping[str, Artifact] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of one step."""

    step: Step
    state: State
    why: str
    artifact: Artifact | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Keyed:
    """A step with everything that its key hashes."""

    step: Step
    material: Mapping[str, Any]
    context: RunContext

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of the material, hex."""
        return hashlib.sha256(canonical(self.material)).hexdigest()


def steps_of(recipe: Recipe, *, until: str = "bench", targets: Sequence[str] | None = None) -> list[Step]:
    """`plan`, and every network's name checked: all that can be said of a recipe without importing torch.

    Raises:
        RecipeError: See `edgekd.plan.plan`; or an unknown network.
    """
    with recipe.placed():
        steps = plan(recipe, until=until, targets=targets)
        _check_models(recipe)
    return steps


def _check_models(recipe: Recipe) -> None:
    sections = {"student": recipe.student.model} | ({"teacher": recipe.teacher.model} if recipe.teacher else {})
    for section, name in sections.items():
        if name not in models.names():
            hint = nearest(name, models.names()) if len(models.names()) < 40 else "edgekd models"
            raise RecipeError(f"{section}.model", f"unknown name {name!r}", hint, "edgekd models")


def run(recipe: Recipe, steps: Sequence[Step], settings: Settings) -> list[Outcome]:
    """Bring every step to an artifact, upstream first.

    Raises:
        EdgekdError: As the stages raise; what was sealed before stays.
    """
    with recipe.placed():
        return _run(recipe, [prepare(step, settings) for step in steps], Store(settings.workspace), settings)


def _run(recipe: Recipe, steps: Sequence[Step], store: Store, settings: Settings) -> list[Outcome]:
    done: dict[str, Artifact] = {}
    outcomes: list[Outcome] = []
    checked = False
    for number, step in enumerate(steps):
        outcome = _look(step, done, store, settings)
        if outcome.artifact is None:
            if not checked and step.stage != "data":
                _check_all(steps[number:], done, settings)
                checked = True
            outcome = _make(recipe, step, done, store, settings, outcome.why)
        settings.console.log(f"{outcome.state:7} {_name(outcome)}  ({outcome.why})")
        assert outcome.artifact is not None
        done[step.name] = outcome.artifact
        outcomes.append(outcome)
    return outcomes


def dry_run(steps: Sequence[Step], settings: Settings) -> list[Outcome]:
    """What `run` would do, without doing it; a step behind one that is to be made is `unknown` when its key hangs on it."""
    store = Store(settings.workspace)
    done: dict[str, Artifact] = {}
    outcomes: list[Outcome] = []
    for step in (prepare(step, settings) for step in steps):
        if all(name in done for name in step.inputs.values()):
            outcome = _look(step, done, store, settings)
        else:
            missing = next(name for name in step.inputs.values() if name not in done)
            outcome = Outcome(step, "to make", f"after {missing}")
        if outcome.artifact is not None:
            done[step.name] = outcome.artifact
        else:
            outcome = replace(outcome, state="to make")
        outcomes.append(outcome)
    return outcomes


def prepare(step: Step, settings: Settings) -> Step:
    """A step with what only this machine can tell: the source files' digest, the checkpoint's hash.

    Raises:
        RecipeError: A data set or checkpoint is not where it is looked for.
    """
    params = step.params
    if step.name in settings.pins:
        return step
    if isinstance(params, DataParams):
        from edgekd.stages import data

        return replace(step, params=data.locate(params, settings.data_roots))
    if isinstance(params, TeacherParams) and params.checkpoint is not None:
        from edgekd.artifact import sha256_file
        from edgekd.data.checkpoint_file import find_checkpoint

        path = find_checkpoint(params.checkpoint, settings.recipe_dir, settings.data_roots)
        update = {"checkpoint": path.name, "checkpoint_sha256": sha256_file(path)}
        return replace(step, params=params.model_copy(update=update))
    return step


def keyed(step: Step, inputs: Mapping[str, Artifact], settings: Settings, resume: Path) -> Keyed:
    """The key material of a step: parameters, input digests, versions, and what of the machine changes the result."""
    material: dict[str, Any] = {
        "stage": step.stage,
        "version": registry.stage_version(step.stage),
        "params": _key_params(step.params),
        "inputs": {role: inputs[name].digest for role, name in step.inputs.items()},
    }
    if step.plugin is not None:
        group, name = step.plugin
        material["plugin"] = {"group": group, "name": name, "version": registry.find(group, name).version}
    context = RunContext(settings.data_roots, settings.recipe_dir, resume, settings.console, threads=settings.threads)
    fit = fit_of(step.params)
    if fit is not None:
        resolved = resolve(fit)
        material["environment"] = {"device": resolved.device, "precision": resolved.precision}
        context = replace(context, device=resolved.device, precision=resolved.precision)
    if isinstance(step.params, BenchParams):
        from edgekd.stages.bench import fingerprint

        material["environment"] = fingerprint(step.params)
    return Keyed(step, material, context)


def fit_of(params: Params) -> Fit | None:
    """The fit section of a training step, else None."""
    return params.fit if isinstance(params, TeacherParams | StudentParams) else None


def _key_params(params: Params) -> dict[str, Any]:
    """Parameters as they are hashed: no path, and `auto` and a named device that mean the same give the same key."""
    values = params.model_dump(mode="json")
    for name in ("device", "precision"):
        if isinstance(values.get("fit"), dict):
            values["fit"].pop(name)
    if values.get("checkpoint_sha256"):
        values.pop("checkpoint")  # its bytes count, not its name
    if values.get("sources"):
        values["args"] = {k: v for k, v in values["args"].items() if k != "path"}  # likewise
    return values


def _look(step: Step, done: Mapping[str, Artifact], store: Store, settings: Settings) -> Outcome:
    if step.name in settings.pins:
        return Outcome(step, "reused", "chosen with --from", settings.pins[step.name])
    key = keyed(step, done, settings, store.root)
    found = store.find(step.name, key.key)
    forced = step.name in settings.force or "*" in settings.force
    if found is not None and not forced:
        return Outcome(step, "reused", "same parameters and inputs", found)
    newest = store.newest(step.name)
    if found is not None:
        why = "asked to make it again"
    elif newest is None:
        why = "not made before"
    else:
        why = manifest.difference(newest.manifest, key.material)
    return Outcome(step, "to make", why)


def _check_all(steps: Sequence[Step], done: Mapping[str, Artifact], settings: Settings) -> None:
    """Every remaining stage's `check` before the first work, so that a late mistake costs nothing."""
    teacher = next((s.params.model for s in steps if isinstance(s.params, TeacherParams)), None)
    data = done.get("data")
    known = data.metrics if data is not None else {}
    for step in steps:
        if step.name in settings.pins:
            continue
        fit = fit_of(step.params)
        context = RunContext(
            settings.data_roots, settings.recipe_dir, settings.workspace, settings.console, threads=settings.threads
        )
        if fit is not None:
            resolved = resolve(fit)
            context = replace(context, device=resolved.device, precision=resolved.precision)
        context = replace(
            context, classes=known.get("classes"), train_images=known.get("n_train"), teacher_model=teacher
        )
        _stage(step.stage).check(step.params, context)


def _make(
    recipe: Recipe, step: Step, done: Mapping[str, Artifact], store: Store, settings: Settings, why: str
) -> Outcome:
    start = time.monotonic()
    key = keyed(step, done, settings, store.root)
    inputs = {role: done[name] for role, name in step.inputs.items()}
    forced = step.name in settings.force or "*" in settings.force

    def work() -> Artifact:
        with store.lock(step.name, key.key):
            found = None if forced else store.find(step.name, key.key)
            if found is not None:
                return found  # another process made it while this one waited
            scratch = store.begin(step.name, key.key)
            settings.console.log(f"making  {step.name}  ({why})")
            stage = _stage(step.stage)
            context = replace(key.context, resume=scratch.resume)
            stage.check(step.params, context)
            result: StageResult = stage.run(step.params, inputs, scratch.out, context)
            seconds = time.monotonic() - start
            facts = manifest.facts(recipe, key.material, inputs, result.metrics, seconds, settings.threads)
            again = forced and step.stage == "bench"
            return store.seal(scratch, step.name, key.key, result.payload, facts, again=again)

    artifact = _translated(step.name, work)
    return Outcome(step, "made", why, artifact, time.monotonic() - start)


def _translated(step: str, work: Callable[[], Artifact]) -> Artifact:
    """Let the machine's refusals (disk full, read-only, out of memory) reach the user as what they are."""
    try:
        return work()
    except OSError as error:
        if error.errno is None:
            raise
        raise StageFailed(
            step,
            f"{error.strerror} ({error.filename or 'workspace'})",
            "a writable workspace with free space",
            "free some space or choose another --workspace; what was finished is kept and found again",
        ) from error
    except MemoryError as error:
        raise StageFailed(step, "out of memory", "more memory", "a smaller batch_size") from error


def _stage(name: str) -> Stage:
    return cast("Stage", importlib.import_module(f"edgekd.stages.{name}"))


def _name(outcome: Outcome) -> str:
    return outcome.artifact.id if outcome.artifact is not None else outcome.step.name
