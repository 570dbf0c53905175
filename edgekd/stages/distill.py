"""Stage `distill`, step `student`: the student fitted under a distillation method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import models, predictions, registry
from edgekd.artifact import Artifact
from edgekd.errors import RecipeError
from edgekd.fit import compiling, ready, seeding
from edgekd.fit.loop import fit
from edgekd.fit.process import own_threads
from edgekd.fit.request import FitResult, Settings, Side
from edgekd.params import StudentParams
from edgekd.predictions import Predictions
from edgekd.stages import evaluate
from edgekd.stages.base import RunContext, StageResult

VERSION = 1


def check(params: StudentParams, context: RunContext) -> None:
    """Build the networks and the method, see that the taps are there, look at device and settings.

    Raises:
        RecipeError: Unknown model or method, taps that do not exist, settings that contradict each other.
        MissingTool: The device or the compiler named is not there.
    """
    registry.check("distillers", params.distill.use, params.distill.args, "distill")
    distiller = registry.construct("distillers", params.distill.use, params.distill.args)
    if distiller.views != 1:
        raise RecipeError("distill.use", f"{params.distill.use} wants {distiller.views} views", "a method of one view")
    ready.check(params.fit, context.device, "student.fit", compile_allowed=context.compile)
    student = _tap_names(params.model, context)
    if not distiller.needs_teacher:
        distiller.wanted(student, ())
    elif context.teacher_model is not None:
        distiller.wanted(student, _tap_names(context.teacher_model, context))


def run(params: StudentParams, inputs: Mapping[str, Artifact], out: Path, context: RunContext) -> StageResult:
    """Fit the student, evaluate once on val and test, write the artifact.

    Args:
        params: See `StudentParams`.
        inputs: `data`, and `teacher` unless the method needs none.
        out: Where weights.safetensors, model.json, predictions.npz, history.json and diagnostics.npz go.
        context: See `RunContext`.

    Raises:
        RecipeError: The teacher is of other classes than the data.
        StageFailed: A loss is NaN or infinite, memory runs out, or a checkpoint cannot be written.
        IntegrityError: There are checkpoints of this step and none can be used.
    """
    data = evaluate.open_data(inputs["data"], params.roles)
    normal = data.normal(params.normalize)
    result, reason = _fitted(params, inputs, data, normal, context)
    with own_threads(context.threads):
        answers = evaluate.answers(result.network, data, normal, "cpu", ("val", "test"))
    metrics = result.metrics(reason) | predictions.summarize(answers)
    metrics |= evaluate.write_network(out, result.network, params.model, data, normal)
    if "teacher" in inputs:
        metrics |= _agreement(answers, predictions.load(inputs["teacher"].path))
    predictions.save(out, answers)
    evaluate.write_history(out, result.history, result.diagnostics)
    return StageResult(metrics, evaluate.PAYLOAD)


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
    teacher = _teacher(inputs["teacher"], data) if distiller.needs_teacher else None
    wanted, seen = distiller.wanted(list(points), list(teacher.points) if teacher else ())
    training = data.training(params.augment)
    decision = compiling.decide(params.fit, len(training.labels), context.device, allowed=context.compile)
    context.console.log(
        f"student: {params.model} by {params.distill.use} on {context.device}, {context.precision}, {decision.reason}"
    )
    settings = Settings(
        where="student",
        fit=params.fit,
        seed=seeding.derive(params.seed, "student"),
        classes=data.classes,
        device=context.device,
        precision=context.precision,
        compile=decision.on,
        threads=context.threads,
        resume=context.resume,
    )
    side = Side(network, points, wanted, *normal)
    shown = None if teacher is None else Side(teacher.network, teacher.points, seen, teacher.mean, teacher.std)
    validate = evaluate.validator(data, normal, context.device)
    return fit(side, shown, distiller, training, settings, context.console, validate), decision.reason


def _teacher(artifact: Artifact, data: evaluate.Data) -> Side:
    network, model, (mean, std) = evaluate.read_network(artifact, data)
    return Side(network, models.taps(model, network), (), mean, std)


def _tap_names(model: str, context: RunContext) -> list[str]:
    return list(models.taps(model, evaluate.draft(model, context)))


def _agreement(student: Predictions, teacher: Predictions) -> dict[str, Any]:
    """Part of the test images on which student and teacher answer the same."""
    ours, theirs = student.of("test"), teacher.of("test")
    if not np.array_equal(ours.row, theirs.row):
        raise RecipeError(
            "teacher", "was evaluated on other test images than the student", "one data artifact for both"
        )
    return {"teacher_agreement_percent": 100.0 * float((ours.answer == theirs.answer).mean())}
