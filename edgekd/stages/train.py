"""Stage `train`, step `teacher`, and `student` when it is imported: a network fitted with labels alone, or an imported checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from edgekd import models, predictions, registry
from edgekd.analysis.expected import require_top1
from edgekd.artifact import Artifact, sha256_file
from edgekd.data.checkpoint_file import find_checkpoint, require_planned
from edgekd.errors import RecipeError
from edgekd.fit import compiling, ready, seeding
from edgekd.fit.loop import fit
from edgekd.fit.process import own_threads
from edgekd.fit.request import FitResult, Side
from edgekd.models.checkpoint import load_checkpoint, load_weights
from edgekd.params import TeacherParams
from edgekd.stages import evaluate, joint
from edgekd.stages.base import RunContext, StageResult

VERSION = 1


def check(params: TeacherParams, context: RunContext) -> None:
    """Build the network, find and read the checkpoint or the weights, look at device and settings.

    Raises:
        RecipeError: Unknown model, settings that contradict each other, no such file, one of another network.
        IntegrityError: The file is damaged, or not the one that the step's key names.
        MissingTool: The device or the compiler named is not there.
    """
    network = evaluate.draft(params.model, context)
    models.taps(params.model, network)
    if params.checkpoint is not None:
        path = _file(params, context)
        if context.classes is not None and context.channels is not None:  # else `run` sees whether it fits
            load_checkpoint(network, path, params.model, where=f"{params.role}.checkpoint")
    elif params.fit is not None:
        allowed, group, val = context.compile, context.group, context.val_images
        ready.check(params.fit, context.device, "teacher.fit", compile_allowed=allowed, group=group, val=val)
        if params.weights is not None:
            path = _file(params, context)
            if context.channels is not None and context.size is not None:
                load_weights(network, path, params.model)
    else:
        raise RecipeError("teacher", "neither fit nor checkpoint", "one of them", "teacher: {model: ..., fit: {}}")


def run(params: TeacherParams, inputs: Mapping[str, Artifact], out: Path, context: RunContext) -> StageResult:
    """Fit or import, evaluate once on val and test, write the artifact.

    Args:
        params: See `TeacherParams`.
        inputs: `data`.
        out: Where weights.safetensors, model.json, predictions.npz and history.json go.
        context: See `RunContext`.

    Raises:
        CheckFailed: Top-1 is not the `expect_top1` of the recipe.
        RecipeError: The checkpoint is of another network or number of classes, or the weights of another network.
        StageFailed: A loss is NaN or infinite, memory runs out, or a checkpoint cannot be written.
    """
    data = evaluate.open_data(inputs["data"], params.roles)
    normal = data.normal(params.normalize, f"{params.role}.normalize")
    if params.checkpoint is not None:
        network, metrics = _imported(params, data, context)
    else:
        joint.call("train", params, inputs, context)
        result, metrics = _fitted(params, data, normal, context)
        evaluate.write_history(out, result.history, result.diagnostics)
        network = result.network
    with own_threads(context.threads):
        answers = evaluate.answers(network, data, normal, "cpu", ("val", "test"))
    metrics |= predictions.summarize(answers)
    require_top1(params.expect_top1, metrics, f"{params.role}.expect_top1")
    metrics |= evaluate.write_network(out, network, params.model, data, normal)
    predictions.save(out, answers)
    return StageResult(metrics, evaluate.PAYLOAD)


def join(params: TeacherParams, inputs: Mapping[str, Artifact], context: RunContext) -> None:
    """Take part in the fit of `run` in another process; see `joint`."""
    data = evaluate.open_data(inputs["data"], params.roles)
    _fitted(params, data, data.normal(params.normalize, "teacher.normalize"), context)


def _file(params: TeacherParams, context: RunContext) -> Path:
    """The checkpoint, or the weights to start from."""
    kind, name, digest = "checkpoint", params.checkpoint, params.checkpoint_sha256
    if name is None:
        kind, name, digest = "weights", params.weights, params.weights_sha256
    where = f"{params.role}.{kind}"
    path = find_checkpoint(str(name), context.recipe_dir, context.data_roots, where)
    require_planned(path, where, sha256_file(path), digest)
    return path


def _imported(params: TeacherParams, data: evaluate.Data, context: RunContext) -> tuple[nn.Module, dict[str, Any]]:
    path = _file(params, context)
    network = data.build(params.model)
    load_checkpoint(network, path, params.model, where=f"{params.role}.checkpoint")
    context.console.log(f"{params.role}: {params.model} imported from {path.name}")
    return network.eval(), {"checkpoint": path.name, "val_seen_in_training": params.trained_on == "train+val"}


def _fitted(
    params: TeacherParams, data: evaluate.Data, normal: evaluate.Normal, context: RunContext
) -> tuple[FitResult, dict[str, Any]]:
    assert params.fit is not None  # refused by check
    network = data.build(params.model, seeding.generator(params.seed, "teacher"))
    start = _started(params, network, context) if params.weights is not None else {}
    training = data.training(params.augment)
    decision = compiling.decide(params.fit, len(training.labels), context.device, allowed=context.compile)
    together = context.group.described(context.device)
    context.console.log(
        f"teacher: {params.model} on {context.device}, {context.precision}, {decision.reason}{together}"
    )
    settings = evaluate.settings("teacher", params.fit, params.seed, data, decision.on, context, context.group)
    side = Side(network, models.taps(params.model, network), (), *normal)
    validate = evaluate.validator(data, normal, context.device)
    result = fit(side, None, registry.construct("distillers", "ce", {}), training, settings, context.console, validate)
    return result, start | result.metrics(decision.reason)


def _started(params: TeacherParams, network: nn.Module, context: RunContext) -> dict[str, Any]:
    """Fill the network with the weights to start from."""
    path = _file(params, context)
    whole = load_weights(network, path, params.model)
    kept = "with its classifier" if whole else "all but its classifier, which is of other classes and starts anew"
    context.console.log(f"teacher: {params.model} starts from {path.name}, {kept}")
    return {"weights": path.name, "classifier_from_weights": whole}
