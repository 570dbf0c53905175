"""Stage `qat`: the student goes on learning under its own method, rounded as its int8 file will be.

The rule for BatchNorm: it is folded into the convolution before it where that is exact. It goes by its batches at first and
keeps its statistics in the last quarter of the epochs; a fold that is frozen from the start diverges at rates ten times lower.
Where the network rounds, and the ranges from which it starts, are read from the file that post-training quantization makes.
Runs in one process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgekd import models, onnxfile, predictions, registry
from edgekd.artifact import Artifact
from edgekd.data import calibration, normalize
from edgekd.distillers.base import Distiller
from edgekd.errors import RecipeError, StageFailed
from edgekd.fit import cached, compiling, ready, seeding
from edgekd.fit.evaluate import evaluate as forward
from edgekd.fit.fakequant import FakeQuantized, fake_quantized, gone, refuse_gone, traced
from edgekd.fit.loop import fit
from edgekd.fit.process import own_threads
from edgekd.fit.request import FitResult, Side
from edgekd.models.fold import fold_batchnorm
from edgekd.params import QatParams
from edgekd.quantizers.base import Quantizer
from edgekd.stages import evaluate, simplification, tracing
from edgekd.stages import judge as judging
from edgekd.stages.base import RunContext, StageResult
from edgekd.stages.converted import normalization, read_json, write_json
from edgekd.stages.placement import Placement, placement
from edgekd.stages.quantize import batches as calibration_batches
from edgekd.taps import TapPoint
from edgekd.validation import QAT_STARTS

VERSION = 2  # 2: BatchNorm keeps its statistics in the last quarter of the epochs, not from their half on
MOST_LOST = 10  # points of the calibration images that training may lose; it is to win some
RANGES = "ranges.json"
MATCHED = 16  # images on which the values of network and file are compared


@dataclass(frozen=True)
class _Start:
    """What is trained on.

    Attributes:
        network: The student.
        folded: The same with its BatchNorms folded.
        points: Its taps.
        model: Its name.
        normal: (mean, std) of its input.
        placed: Where its file rounds.
        rows: Training images that its ranges start from.
    """

    network: nn.Module
    folded: nn.Module
    points: Mapping[str, TapPoint]
    model: str
    normal: normalize.Statistics
    placed: Placement
    rows: npt.NDArray[np.int64]


def check(params: QatParams, context: RunContext) -> None:
    """Build the network, see that it can be traced and that the method can teach it.

    Raises:
        RecipeError: Control flow that hangs on the input, a method that ships layers of its own or reads what the file does not
            have, settings that contradict.
        MissingTool: The device or the compiler named is not there.
    """
    registry.check("quantizers", QAT_STARTS, {"calibrate": params.calibrate}, "qat")
    distiller = registry.construct("distillers", params.distill.use, params.distill.args)
    if type(distiller).deploy is not Distiller.deploy:
        found = f"stands beside distill.use: {params.distill.use}, which ships layers of its own"
        raise RecipeError("qat", found, "a method whose student is shipped as it is", "remove qat")
    ready.check(params.fit, context.device, "qat", compile_allowed=context.compile)
    judging.require_train("qat.images", params.images, params.roles, context)
    draft = evaluate.draft(params.model, context)
    _check_taps(params.model, draft, distiller, context)
    if context.size is None:  # not known yet: the rest is seen once the data are there
        traced(fold_batchnorm(draft, across=True))
    else:
        _try_placement(params, draft, context.channels or evaluate.RGB, context.size)


def run(params: QatParams, inputs: Mapping[str, Artifact], out: Path, context: RunContext) -> StageResult:
    """Fit on, evaluate the rounded network once on val and test, write weights and ranges.

    Args:
        params: See `QatParams`.
        inputs: `data`, `student`, `teacher` unless the method needs none, and `views` of a cached teacher.
        out: Where weights.safetensors (float, not rounded), model.json, ranges.json, predictions.npz (of the rounded
            network), history.json and diagnostics.npz go.
        context: See `RunContext`.

    Raises:
        RecipeError: The student is of other classes than the data.
        StageFailed: The file rounds what the network does not have; a loss is NaN; training made the network much worse;
            memory runs out.
        IntegrityError: There are checkpoints of this step and none can be used.
    """
    data = evaluate.open_data(inputs["data"], params.roles)
    with own_threads(context.threads):
        start = _start(params, inputs["student"], data, context)
    result, reason = _fitted(params, inputs, data, start, context)
    rounded = result.network
    assert isinstance(rounded, FakeQuantized)
    with own_threads(context.threads):
        answers = evaluate.answers(rounded, data, start.normal, "cpu", ("val", "test"))
    start.folded.load_state_dict(rounded.weights())
    facts = read_json(inputs["student"].path / evaluate.MODEL)
    counts = {name: facts[name] for name in ("parameters", "macs")}
    metrics = result.metrics(reason) | predictions.summarize(answers)
    metrics |= evaluate.write_network(out, start.folded, start.model, data, start.normal, counts)
    metrics |= {"rounded_activations": len(start.placed.nodes), "rounded_weights": len(start.placed.weights)}
    predictions.save(out, answers)
    steps = rounded.steps()
    ranges = {name: steps[node] for name, node in start.placed.nodes.items()}
    said = {name: {"scale": scale, "zero_point": zero_point} for name, (scale, zero_point) in ranges.items()}
    write_json(out / RANGES, {"scheme": params.scheme, "ranges": said})
    evaluate.write_history(out, result.history, result.diagnostics)
    return StageResult(metrics, (*evaluate.PAYLOAD, RANGES))


def _check_taps(model: str, draft: nn.Module, distiller: Distiller, context: RunContext) -> None:
    """See that the method reads nothing that is gone once BatchNorm is folded; not while its teacher is not known."""
    if not gone(draft):
        return  # as in most families: no teacher is built for it
    theirs: list[str] = []
    if distiller.needs_teacher:
        if context.teacher_model is None:
            return
        theirs = list(models.taps(context.teacher_model, evaluate.draft(context.teacher_model, context)))
    points = models.taps(model, draft)
    wanted, _ = distiller.wanted(list(points), theirs)
    refuse_gone(draft, {tap: points[tap] for tap, _ in wanted})


def _start(params: QatParams, student: Artifact, data: evaluate.Data, context: RunContext) -> _Start:
    """The student folded, and where the int8 file of it rounds."""
    network, model, _ = evaluate.read_network(student, data)
    folded = fold_batchnorm(network, across=True)
    facts = read_json(student.path / evaluate.MODEL)
    normal = normalization(facts)
    rows = calibration.calibration_rows(data.arrays, params.images, params.seed, "qat.images")
    images = data.arrays.images("train").images
    shown = normalize.apply(np.asarray(images[rows[:MATCHED]]), *normal)
    batches = calibration_batches(images, rows, normal)
    context.console.log(
        f"qat: {model}, scheme {params.scheme}, ranges from {len(rows)} training images ({params.calibrate})"
    )
    placed = _placed(folded, shown, batches, params.scheme, params.calibrate)
    return _Start(network, folded, models.taps(model, network), model, normal, placed, rows)


def _placed(
    folded: nn.Module,
    shown: npt.NDArray[np.float32],
    batches: Iterable[npt.NDArray[np.float32]],
    scheme: str,
    calibrate: str,
) -> Placement:
    """Where the int8 file of a folded network rounds, seen on images [n, C, H, W]; calibrated on batches of them."""
    with tempfile.TemporaryDirectory() as folder:
        graph, quantized = Path(folder) / "graph.onnx", Path(folder) / "quantized.onnx"
        height, width = shown.shape[2:]
        plain = tracing.trace(folded, shown.shape[1], (height, width), onnxfile.OPSET)
        onnxfile.save(simplification.simplify(onnxfile.strip(plain), "onnxsim", shown)[0], graph)
        # its biases as they are: they will be trained, and the file keeps what was trained
        quantizer = registry.construct("quantizers", QAT_STARTS, {"calibrate": calibrate, "bias_correction": False})
        assert isinstance(quantizer, Quantizer)
        quantizer.quantize(graph, quantized, calibration=batches, scheme=scheme)
        return placement(folded, graph, quantized, shown)


def _try_placement(params: QatParams, draft: nn.Module, channels: int, size: tuple[int, int]) -> None:
    """See on a network with made-up weights that everything which its file rounds is found in it.

    Raises:
        RecipeError: It is not.
    """
    random = torch.Generator().manual_seed(0)
    images = torch.randn(MATCHED, channels, *size, generator=random)
    for norm in (module for module in draft.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 1.0
        if norm.affine:  # uneven: no two values of the network shall be equal
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=random)
            nn.init.uniform_(norm.bias, -0.2, 0.8, generator=random)
    with torch.no_grad():
        draft.train()(images)
    shown = images.numpy()
    try:
        _placed(fold_batchnorm(draft, across=True), shown, [shown], params.scheme, "minmax")
    except StageFailed as error:
        raise RecipeError(
            "qat", f"{params.model}: {error.found}", "a network all of whose roundings are found", "remove qat"
        ) from error


def _fitted(
    params: QatParams, inputs: Mapping[str, Artifact], data: evaluate.Data, start: _Start, context: RunContext
) -> tuple[FitResult, str]:
    distiller = registry.construct("distillers", params.distill.use, params.distill.args)
    seed = seeding.derive(params.seed, "qat")
    teacher = evaluate.read_side(inputs["teacher"], data) if distiller.needs_teacher else None
    wanted, seen = distiller.wanted(list(start.points), list(teacher.points) if teacher else ())
    training = data.training(params.augment)
    if "views" in inputs:
        training = replace(training, views=cached.open_views(inputs["views"].path, seed))
    decision = compiling.decide(params.fit, len(training.labels), context.device, allowed=context.compile)
    context.console.log(
        f"qat: {start.model} by {params.distill.use} on {context.device}, {len(start.placed.nodes)} activations and "
        f"{len(start.placed.weights)} weights rounded, {decision.reason}"
    )
    settings = evaluate.settings("qat", params.fit, params.seed, data, decision.on, context)
    read = {tap: start.points[tap] for tap, _ in wanted}
    placed = start.placed
    rounded = fake_quantized(
        start.network, read, placed.activations, placed.weights, params.learn_ranges, placed.biases
    )
    side = Side(rounded, rounded.points, wanted, *start.normal)
    shown = None if teacher is None else replace(teacher, wanted=seen)
    validate = evaluate.validator(data, start.normal, context.device)
    with own_threads(context.threads):
        before = _right(rounded, data, start)
    result = fit(side, shown, distiller, training, settings, context.console, validate)
    with own_threads(context.threads):
        after = _right(result.network, data, start)
    if after < before - MOST_LOST:
        found = f"training came apart: of {len(start.rows)} calibration images {after:.1f} % are right, {before:.1f} % before it"
        expected = f"at most {MOST_LOST} points less"
        raise StageFailed("qat", found, expected, f"--set qat.lr={params.fit.lr / 4:g}")
    return result, decision.reason


def _right(network: nn.Module, data: evaluate.Data, start: _Start) -> float:
    """Calibration images that the rounded network answers right, percent."""
    train = data.arrays.images("train")
    labels = data.arrays.labels("train")[np.searchsorted(train.rows, start.rows)]
    return 100.0 * float(np.mean(forward(network, train.images, start.rows, *start.normal).argmax(axis=1) == labels))
