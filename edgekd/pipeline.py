"""The loop: keep what is made, make what is not, and say which and why."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from edgekd import integrity, manifest, models, registry
from edgekd.analysis import resolution
from edgekd.analysis.expected import require_top1
from edgekd.analysis.gate import Watch
from edgekd.artifact import Artifact
from edgekd.data.base import DataSource
from edgekd.errors import EdgekdError, MissingTool, StageFailed, UsageError
from edgekd.keys import Keyed, Settings, context_of, keyed, prepare, stated
from edgekd.models import published
from edgekd.params import AdoptParams, DataParams, ExportParams, Roles, TeacherParams
from edgekd.plan import Step, plan
from edgekd.recipe import Recipe
from edgekd.stages import joint
from edgekd.stages.base import Stage, StageResult
from edgekd.store import Store

State = Literal["made", "reused", "to make"]


@dataclass(frozen=True)
class Outcome:
    """What became of one step."""

    step: Step
    state: State
    why: str
    artifact: Artifact | None = None
    seconds: float = 0.0
    key: Keyed | None = None  # of a step to make, once its inputs are there


def steps_of(recipe: Recipe, *, until: str = "bench", targets: Sequence[str] | None = None) -> list[Step]:
    """`plan`, and every network's name checked: all that can be said of a recipe without importing torch.

    Raises:
        RecipeError: See `edgekd.plan.plan`; or an unknown network, or a gate that the data set is too small for.
    """
    with recipe.placed():
        steps = plan(recipe, until=until, targets=targets)
        _check_models(recipe)
        _check_gate(recipe, steps)
    return steps


def _check_gate(recipe: Recipe, steps: Sequence[Step], n_test: int | None = None) -> None:
    """See that the gate can be decided on the test images; nothing where neither the data nor their kind say how many."""
    gate = None if recipe.gate is None else recipe.gate.budgeted
    if gate is None:
        return
    n = _shipped_test(recipe) if n_test is None else n_test
    if n is None:
        return
    whole = steps if any(step.kind in ("quantized", "export", "bench") for step in steps) else _whole(recipe)
    answering = [s.name for s in whole if isinstance(s.params, ExportParams) and s.params.tool is not None]
    resolution.require(gate, {step.name: list(step.inputs.values()) for step in whole}, n, answering)


def _whole(recipe: Recipe) -> list[Step]:
    """The whole chain, as far as it goes without the board that its last steps would take."""
    try:
        return plan(recipe)
    except MissingTool:
        return plan(recipe, until="export")


def _shipped_test(recipe: Recipe) -> int | None:
    """Test images of a data set that is the same for everybody."""
    expected = cast("DataSource", registry.construct("data", recipe.data.use, recipe.data.args)).expected
    return None if expected is None else expected.test


def _check_models(recipe: Recipe) -> None:
    sections = {"student": recipe.student.model} | ({"teacher": recipe.teacher.model} if recipe.teacher else {})
    for section, name in sections.items():
        if name is not None:
            models.check(name, f"{section}.model")
    if recipe.teacher is not None and recipe.teacher.weights is not None:
        published.check(recipe.teacher.model, recipe.teacher.weights)


def run(
    recipe: Recipe, steps: Sequence[Step], settings: Settings, keep: Callable[[Sequence[Outcome]], object] = len
) -> list[Outcome]:
    """Bring every step to an artifact, upstream first.

    Args:
        recipe: The recipe.
        steps: From `steps_of`.
        settings: See `Settings`.
        keep: Told of all outcomes so far, after each step that is made, so that a later failure loses none of them.

    Raises:
        EdgekdError: As the stages raise; what was sealed before stays.
        CheckFailed: Among them: a step fails the gate. What stands behind it was not made, everything else was; and so
            with whatever a tool chain's target raises.
    """
    manifest.source()  # hashed now: an edit during a long run must not pass for what ran
    store = Store(settings.workspace)
    done: dict[str, Artifact] = {}
    outcomes: list[Outcome] = []
    unchecked = True
    watch = Watch(recipe.gate, recipe.name, settings.workspace, settings.console.log)
    with recipe.placed():
        steps = [prepare(step, settings) for step in steps]
        require_same(steps, settings)
        for number, step in enumerate(steps):
            if settings.group.board is not None and not any(later.stage in joint.PARAMS for later in steps[number:]):
                settings.group.board.dismiss()
            if watch.leaves_out(step.name, step.inputs.values()):
                continue
            outcome = _look(step, done, store, settings)
            if outcome.artifact is None:
                if unchecked:
                    check_all(steps[number:], done, settings)
                    if outcomes and outcomes[-1].state == "reused":  # not before: a refused run takes no other's place
                        keep(outcomes)
                unchecked = step.stage == "data"  # once the images are known, the checks know more
                outcome = _tried(recipe, outcome, done, store, settings, watch)
                if outcome.artifact is None:
                    continue
            settings.console.log(f"{outcome.state:7} {_name(outcome)}  ({outcome.why})")
            assert outcome.artifact is not None
            done[step.name] = outcome.artifact
            outcomes.append(outcome)
            if outcome.state == "made":
                keep(outcomes)
            watch.look(step.name, done)
            if step.stage == "data":
                _check_gate(recipe, steps, outcome.artifact.metrics["n_test"])
            if isinstance(step.params, TeacherParams | AdoptParams):
                role = step.params.role if isinstance(step.params, TeacherParams) else "student"
                require_top1(step.params.expect_top1, outcome.artifact.metrics, f"{role}.expect_top1")
        if outcomes and outcomes[-1].state == "reused":
            keep(outcomes)
        watch.require()
    return outcomes


def require_same(steps: Sequence[Step], settings: Settings) -> None:
    """A step taken with `--from` must be the one that the recipe describes: nothing asked for is silently ignored.

    Raises:
        UsageError: The recipe, or an override, says something else.
    """
    for step in steps:
        pin = settings.pins.get(step.name)
        changed = pin is not None and manifest.difference({**pin.manifest, "inputs": {}}, stated(step, pin))
        if pin is not None and changed:
            raise UsageError(
                f"--from: {pin.id}",
                f"the recipe says otherwise: {changed}",
                "the parameters that it was made with",
                "leave out --from to make it anew, or the --set or --recipe that changes it",
            )


def dry_run(steps: Sequence[Step], settings: Settings) -> list[Outcome]:
    """What `run` would do, without doing it; a step behind one that is to be made is to be made, too."""
    steps = [prepare(step, settings) for step in steps]
    require_same(steps, settings)
    return outlook(steps, settings)


def outlook(steps: Sequence[Step], settings: Settings) -> list[Outcome]:
    """What of prepared steps, upstream first, is made and what is not."""
    store = Store(settings.workspace)
    done: dict[str, Artifact] = {}
    outcomes: list[Outcome] = []
    for step in steps:
        if all(name in done for name in step.inputs.values()):
            outcome = _look(step, done, store, settings)
        else:
            missing = next(name for name in step.inputs.values() if name not in done)
            outcome = Outcome(step, "to make", f"after {missing}")
        if outcome.artifact is not None:
            done[step.name] = outcome.artifact
        outcomes.append(outcome)
    return outcomes


def check_all(
    steps: Sequence[Step], done: Mapping[str, Artifact], settings: Settings, size: tuple[int, int] | None = None
) -> None:
    """Every remaining stage's `check` before the first work, so that a late mistake costs nothing.

    Args:
        steps: What remains.
        done: What is made.
        settings: Where and how.
        size: (height, width) of images that are not decoded yet, where the recipe asks for none.
    """
    teachers = (s.params for s in steps if isinstance(s.params, TeacherParams) and s.params.role == "teacher")
    teacher = next((params.model for params in teachers), None)
    known = done["data"].metrics if "data" in done else {}
    asked = next(((s.params.size,) * 2 for s in steps if isinstance(s.params, DataParams) and s.params.size), size)
    for step in steps:
        if step.name not in settings.pins:
            context = replace(
                context_of(step.params, settings),
                classes=known.get("classes"),
                train_images=known.get("n_train"),
                val_images=(getattr(step.params, "roles", None) or Roles()).val
                or (known.get("n_val", 0) if known else None),
                channels=known.get("channels"),
                size=(known["height"], known["width"]) if "height" in known else asked,
                teacher_model=teacher,
            )
            _stage(step.stage).check(step.params, context)


def look(step: Step, done: Mapping[str, Artifact], settings: Settings) -> Outcome:
    """Whether one prepared step, whose inputs are made, is made."""
    return _look(step, done, Store(settings.workspace), settings)


def make(recipe: Recipe, wanted: Outcome, done: Mapping[str, Artifact], settings: Settings) -> Outcome:
    """Make one step that `look` found to make, without the checks of `check_all`.

    Raises:
        EdgekdError: As the stage raises.
    """
    outcome = _make(recipe, wanted, done, Store(settings.workspace), settings)
    settings.console.log(f"{outcome.state:7} {_name(outcome)}  ({outcome.why})")
    return outcome


def _look(step: Step, done: Mapping[str, Artifact], store: Store, settings: Settings) -> Outcome:
    if step.name in settings.pins:
        return Outcome(step, "reused", "chosen with --from", settings.pins[step.name])
    key = keyed(step, done, settings)
    found = store.find(step.name, key.key)
    forced = step.name in settings.force or "*" in settings.force
    if found is not None and not forced:
        return Outcome(step, "reused", "same parameters and inputs", found)
    shared = None if forced or settings.group.world > 1 else _of_several(key, store)
    if shared is not None:
        processes = shared.manifest["environment"]["processes"]
        return Outcome(step, "reused", f"same parameters and inputs, trained by {processes} processes", shared)
    newest = store.newest(step.name)
    if found is not None:
        why = "asked to make it again"
    elif newest is None:
        why = "not made before"
    else:
        why = manifest.difference(newest.manifest, key.material) or "not there any more"
    return Outcome(step, "to make", why, key=key)


def _of_several(key: Keyed, store: Store) -> Artifact | None:
    """What several processes have trained from the same: one process goes on from it rather than train it again."""
    if key.step.stage not in joint.PARAMS or "environment" not in key.material:
        return None
    trained = {int((a.manifest.get("environment") or {}).get("processes", 1)) for a in store.of(key.step.name)}
    found = (store.find(key.step.name, key.in_processes(n).key) for n in sorted(trained - {1}, reverse=True))
    return next((artifact for artifact in found if artifact is not None), None)


def _tried(
    recipe: Recipe, wanted: Outcome, done: Mapping[str, Artifact], store: Store, settings: Settings, watch: Watch
) -> Outcome:
    """A step made; unmade where its tool chain failed: that says nothing of the other targets, so the run goes on."""
    try:
        return _make(recipe, wanted, done, store, settings)
    except EdgekdError as error:
        if not isinstance(wanted.step.params, ExportParams) or wanted.step.params.tool is None:
            raise
        watch.fail(wanted.step.name, error)
        return wanted


def _make(recipe: Recipe, wanted: Outcome, done: Mapping[str, Artifact], store: Store, settings: Settings) -> Outcome:
    assert wanted.key is not None  # `_look` gives it with every step to make
    start, step, key, why = time.monotonic(), wanted.step, wanted.key, wanted.why
    inputs = {role: done[name] for role, name in step.inputs.items()}
    forced = step.name in settings.force or "*" in settings.force

    def waiting() -> None:
        settings.console.log(f"waiting {step.name}  (another process is making it)")

    def work() -> Artifact:
        with store.lock(step.name, key.key, waiting):
            found = None if forced else store.find(step.name, key.key)
            if found is not None:
                return found  # another process made it while this one waited
            scratch = store.begin(step.name, key.key)
            settings.console.log(f"making  {step.name}  ({why})")
            for artifact in inputs.values():
                integrity.require(artifact)
            stage = _stage(step.stage)
            context = replace(context_of(step.params, settings), resume=scratch.resume)
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
        if isinstance(error, BrokenPipeError):
            raise  # no refusal of the disk: the reader of our log went away
        raise StageFailed(
            step,
            f"{error.strerror or error} ({error.filename or 'workspace'})",  # NumPy's writes say no errno
            "a writable workspace with free space",
            "free some space or choose another --workspace; what was finished is kept and found again",
        ) from error
    except MemoryError as error:
        raise StageFailed(step, "out of memory", "more memory", "a smaller batch_size") from error


def _stage(name: str) -> Stage:
    return cast("Stage", importlib.import_module(f"edgekd.stages.{name}"))


def _name(outcome: Outcome) -> str:
    return outcome.artifact.id if outcome.artifact is not None else outcome.step.name
