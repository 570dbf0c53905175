"""Stage `distill`, step `student`: the student fitted under a distillation method."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from edgekd import methods, models, predictions, registry
from edgekd.artifact import Artifact
from edgekd.distillers.base import Context, Distiller
from edgekd.errors import RecipeError
from edgekd.fit import cached, compiling, ready, seeding
from edgekd.fit.loop import fit
from edgekd.fit.process import own_threads
from edgekd.fit.request import FitResult, Side
from edgekd.params import StudentParams
from edgekd.predictions import Predictions
from edgekd.stages import evaluate, joint
from edgekd.stages.base import RunContext, StageResult
from edgekd.taps import Outputs, Wanted, tapped

VERSION = 1


def check(params: StudentParams, context: RunContext) -> None:
    """Build the networks and the method, see that the taps are there, look at device and settings.

    Raises:
        RecipeError: Unknown model or method, taps that do not exist, settings that contradict each other.
        MissingTool: The device or the compiler named is not there.
    """
    registry.check("distillers", params.distill.use, params.distill.args, "distill")
    distiller = registry.construct("distillers", params.distill.use, params.distill.args)
    if params.fit.ema and type(distiller).deploy is not Distiller.deploy:
        found = f"{params.fit.ema:g}, and {params.distill.use} ships layers of its own, which are not averaged"
        raise RecipeError("student.fit.ema", found, "0 with this method", "--set student.fit.ema=0")
    allowed, group, val = context.compile, context.group, context.val_images
    ready.check(params.fit, context.device, "student.fit", compile_allowed=allowed, group=group, val=val)
    student = _draft(params.model, context)
    if not distiller.needs_teacher:
        distiller.wanted(list(student.points), ())
    elif context.teacher_model is not None:
        teacher = _draft(context.teacher_model, context)
        ours, theirs = distiller.wanted(list(student.points), list(teacher.points))
        if params.distill.cached_views is not None:
            kind, reductions = methods.stored(params.distill.use, params.distill.args) or (None, ())
            stored = cached.stored(kind, reductions, list(teacher.points))  # type: ignore[arg-type]  # the method's Literal
            _check_stored(theirs, [f"{tap}:{reduction}" for tap, reduction in stored])
        if context.size is not None and context.classes is not None:
            _try_setup(distiller, replace(student, wanted=ours), replace(teacher, wanted=theirs), context)


def run(params: StudentParams, inputs: Mapping[str, Artifact], out: Path, context: RunContext) -> StageResult:
    """Fit the student, evaluate once on val and test, write the artifact.

    Args:
        params: See `StudentParams`.
        inputs: `data`, `teacher` unless the method needs none, and `views` with the answers of a cached teacher.
        out: Where weights.safetensors, model.json, predictions.npz, history.json and diagnostics.npz go.
        context: See `RunContext`.

    Raises:
        RecipeError: The teacher is of other classes than the data.
        StageFailed: A loss is NaN or infinite, memory runs out, or a checkpoint cannot be written.
        IntegrityError: There are checkpoints of this step and none can be used.
    """
    data = evaluate.open_data(inputs["data"], params.roles)
    normal = data.normal(params.normalize, "student.normalize")
    joint.call("distill", params, inputs, context)
    result, reason = _fitted(params, inputs, data, normal, context)
    with own_threads(context.threads):
        answers = evaluate.answers(result.network, data, normal, "cpu", ("val", "test"))
    metrics = result.metrics(reason) | predictions.summarize(answers)
    metrics["method_parameters"] = result.method_parameters
    metrics |= evaluate.write_network(out, result.network, params.model, data, normal)
    if "teacher" in inputs:
        metrics |= _agreement(answers, predictions.load(inputs["teacher"].path))
    predictions.save(out, answers)
    mode = {"views": _mode(params)} if "teacher" in inputs else {}
    evaluate.write_history(out, [{**row, **mode} for row in result.history], result.diagnostics)
    return StageResult(metrics | mode, evaluate.PAYLOAD)


def join(params: StudentParams, inputs: Mapping[str, Artifact], context: RunContext) -> None:
    """Take part in the fit of `run` in another process; see `joint`."""
    data = evaluate.open_data(inputs["data"], params.roles)
    _fitted(params, inputs, data, data.normal(params.normalize, "student.normalize"), context)


def rehearse(
    params: StudentParams, inputs: Mapping[str, Artifact], context: RunContext, batches: int, compiled: bool
) -> float:
    """A few batches of `run` that are kept nowhere: what this method cannot do with these networks and data fails now.

    Args:
        params: See `StudentParams`.
        inputs: As for `run`.
        context: As for `run`; its `resume` is not used.
        batches: How many, >= 1; of the training images if there are so many.
        compiled: Run them compiled.

    Returns:
        Seconds an image; of two batches or more the first is left out (it compiles).

    Raises:
        EdgekdError: As `run`.
    """
    whole = evaluate.open_data(inputs["data"], params.roles)
    images = min(batches * params.fit.batch_size, len(whole.arrays.rows["train"]))
    changes = {"epochs": 1, "keep": "last", "warmup": 0.0, "milestones": None, "compile": compiled}
    roles = params.roles.model_copy(update={"train": images, "val": min(params.roles.val, 1)})
    short = params.model_copy(update={"fit": params.fit.model_copy(update=changes), "roles": roles})
    data = evaluate.open_data(inputs["data"], roles)
    with TemporaryDirectory() as folder:
        trial = replace(context, resume=Path(folder))
        result, _ = _fitted(short, inputs, data, data.normal(params.normalize, "student.normalize"), trial)
    return 1 / result.images_per_second


def _fitted(
    params: StudentParams,
    inputs: Mapping[str, Artifact],
    data: evaluate.Data,
    normal: evaluate.Normal,
    context: RunContext,
) -> tuple[FitResult, str]:
    distiller = registry.construct("distillers", params.distill.use, params.distill.args)
    network = data.build(params.model, seeding.generator(params.seed, "student"))
    points = models.taps(params.model, network)
    teacher = evaluate.read_side(inputs["teacher"], data) if distiller.needs_teacher else None
    wanted, seen = distiller.wanted(list(points), list(teacher.points) if teacher else ())
    training = data.training(params.augment)
    if "views" in inputs:
        stored = cached.open_views(inputs["views"].path, seeding.derive(params.seed, "student"))
        _check_stored(seen, stored.shapes)
        training = replace(training, views=stored)
    decision = compiling.decide(params.fit, len(training.labels), context.device, allowed=context.compile)
    context.console.log(
        f"student: {params.model} by {params.distill.use}{f' from {_mode(params)}' if training.views else ''} "
        f"on {context.device}, {context.precision}, {decision.reason}{context.group.described(context.device)}"
    )
    settings = evaluate.settings("student", params.fit, params.seed, data, decision.on, context, context.group)
    side = Side(network, points, wanted, *normal)
    shown = None if teacher is None else Side(teacher.network, teacher.points, seen, teacher.mean, teacher.std)
    validate = evaluate.validator(data, normal, context.device)
    return fit(side, shown, distiller, training, settings, context.console, validate), decision.reason


def _mode(params: StudentParams) -> str:
    """How the teacher looked on, in the words of the report."""
    views = params.distill.cached_views
    return "live" if views is None else f"{views} cached view{'s' if views > 1 else ''}"


def _check_stored(wanted: Wanted, stored: Collection[str]) -> None:
    missing = [key for tap, reduction in wanted if (key := f"{tap}:{reduction}") not in stored]
    if missing:
        raise RecipeError(
            "distill.cached_views",
            f"the method reads {missing[0]} of the teacher, which is not stored",
            "the taps that its `cached` names, and no others",
            "remove cached_views",
        )


def _draft(model: str, context: RunContext) -> Side:
    network = evaluate.draft(model, context)
    plain = (0.0,) * (context.channels or evaluate.RGB), (1.0,) * (context.channels or evaluate.RGB)
    return Side(network, models.taps(model, network), (), *plain)


def _try_setup(distiller: Distiller, student: Side, teacher: Side, context: RunContext) -> None:
    """Set the method up for networks like those to come: where it cannot, that is known before the teacher is trained."""
    assert context.size is not None and context.classes is not None  # see `check`
    images = torch.zeros(2, context.channels or evaluate.RGB, *context.size)
    ours, theirs = _shown(student, images), _shown(teacher, images)
    labels, random = torch.arange(context.classes), seeding.generator(0, "method")
    distiller.setup(Context(student.network, teacher.network, ours, theirs, labels, context.classes, random))


def _shown(side: Side, images: torch.Tensor) -> Outputs:
    with tapped(side.network.eval(), side.points, side.wanted, side.mean, side.std) as network, torch.no_grad():
        return Outputs(*network(images))


def _agreement(student: Predictions, teacher: Predictions) -> dict[str, Any]:
    """Part of the test images on which student and teacher answer the same."""
    found = predictions.agreement_percent(student, teacher)
    if found is None:
        raise RecipeError(
            "teacher", "was evaluated on other test images than the student", "one data artifact for both"
        )
    return {"teacher_agreement_percent": found}
