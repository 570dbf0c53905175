"""Stage `quantize`: the canonical graph -> the graph of one scheme, calibrated on training images, proven to answer alike."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd import onnxfile, predictions, registry
from edgekd.analysis.parity import ParityReport, fake_quant_parity, fp16_parity, int8_parity
from edgekd.artifact import Artifact
from edgekd.console import Console
from edgekd.data import calibration, normalize, roles
from edgekd.errors import IntegrityError
from edgekd.onnxrun import evaluate_onnx
from edgekd.params import QuantizeParams
from edgekd.predictions import Predictions
from edgekd.profiles import QAT_PARITY
from edgekd.quantizers.base import Judge, Quantizer, Range
from edgekd.stages import judge as judging
from edgekd.stages.base import RunContext, StageResult
from edgekd.stages.converted import (
    conclude,
    normalization,
    parity_metrics,
    predict,
    read_json,
    write_json,
)
from edgekd.targets import QAT_SCHEMES
from edgekd.validation import QAT_STARTS, beside_qat

VERSION = 1
PAYLOAD = ("model.onnx", "model.json", "golden.npz", "calibration.json", predictions.FILE)
SAID = 60  # characters of a choice in a line for people
TRAINED = {"fake_quant": ("test images", "the network that was trained rounded")}  # not the float graph
TRAIN_MORE = "--set qat.epochs=N with more of them, or --set qat=null to calibrate the student instead"
BATCH = 64  # calibration images at a time: every activation of a batch is in memory at once


def check(params: QuantizeParams, context: RunContext) -> None:
    """Raise what can be known before work.

    Raises:
        RecipeError: Unknown quantizer, argument or scheme; no calibration image asked, or more than train has.
    """
    train = judging.require_train("quantize.images", params.images, params.roles, context)
    quantizer = _quantizer(params)
    if quantizer.judged:
        images = judging.count(params.roles.val or context.val_images, train, params.images)
        judging.refuse_none(images, train)
        if images is not None:
            quantizer.check_judge(images)


def run(params: QuantizeParams, inputs: Mapping[str, Artifact], out: Path, context: RunContext) -> StageResult:
    """Calibrate, quantize, check, compare with the float graph, evaluate.

    Args:
        params: Scheme, quantizer and its arguments, number of calibration images, roles, seed.
        inputs: `data` and `graph`; `qat` where the graph is of a network trained with quantization.
        out: Where `model.onnx`, `model.json`, `golden.npz`, `calibration.json`, `predictions.npz`, `parity.json` go.
        context: Console and threads.

    Raises:
        RecipeError: Fewer training images than `quantize.images`; no image to decide a choice on.
        CheckFailed: The quantized graph answers too differently from the float one or from the network that was trained
            with its ranges, or no choice of the quantizer is good enough.
        StageFailed: The graph cannot be quantized.
    """
    graph = inputs["graph"].path / "model.onnx"
    facts = read_json(inputs["graph"].path / "model.json")
    norm = normalization(facts)
    arrays = roles.split(inputs["data"], params.roles)
    rows = calibration.calibration_rows(arrays, params.images, params.seed)  # refuses more than there are
    train = arrays.images("train").images
    context.console.log(f"quantize: {params.use}, scheme {params.scheme}, {len(rows)} training images")
    path = out / "model.onnx"
    ranges = trained_ranges(inputs.get("qat"), params.scheme, context.console)
    judge = judging.judge(arrays, rows, norm, seed=params.seed, threads=context.threads)
    quantizer = _quantizer(params)
    decides = quantizer.judged and ranges is None
    if decides and judge is not None:
        context.console.log(f"quantize: decides on {len(judge.rows):,} images of {judge.role}")
    quantizer.quantize(
        graph, path, calibration=batches(train, rows, norm), scheme=params.scheme, judge=judge, ranges=ranges
    )
    chosen = _chosen(quantizer, context.console)
    _finish(path, graph, inputs["graph"], params, facts["opset"])
    facts = {**facts, "scheme": params.scheme}
    write_json(out / "model.json", facts)
    _record(out / "calibration.json", params, rows, norm, _decisions(quantizer, judge if decides else None, ranges))
    _golden(path, inputs["graph"].path / "golden.npz", out / "golden.npz", norm, context.threads)

    answers, found = predict(path, arrays, norm, context)
    predictions.save(out, answers)
    test = arrays.images("test")
    wanted = evaluate_onnx(graph, test.images, test.rows, *norm, context.threads)
    bounds = {} if ranges is None else QAT_PARITY
    report = fp16_parity(wanted, found) if params.scheme == "fp16" else int8_parity(wanted, found, **bounds)
    reports = {"test": report}
    if ranges is not None:
        reports["fake_quant"] = _against_trained(inputs["qat"], answers.of("test"), found)
    hint = ""
    if not all(one.passed for one in reports.values()):
        ways = [*_arguments(params, quantizer.moot(graph)), *_another(params), *_training(params, inputs, facts)]
        hint = " or ".join(ways) if ranges is None else TRAIN_MORE
    conclude(out, f"quantized/{params.scheme}", "the float graph", reports, context, hint=hint, apart=TRAINED)
    return StageResult(
        metrics={
            **predictions.summarize(answers),
            **parity_metrics(report),
            **chosen,
            "calibration_images": len(rows),
            "file_bytes": path.stat().st_size,
            "parameters": facts["parameters"],
            "macs": facts["macs"],
        },
        payload=PAYLOAD,
    )


def trained_ranges(qat: Artifact | None, scheme: str, console: Console) -> dict[str, Range] | None:
    """The ranges that the network was trained with, where they are of this scheme."""
    if qat is None:
        return None
    stored = read_json(qat.path / "ranges.json")
    if stored["scheme"] != scheme:
        other = f" (--set qat.scheme={scheme} trains it for this one)" if scheme in QAT_SCHEMES else ""
        console.log(
            f"quantize: the network was trained with ranges of {stored['scheme']}: for {scheme} it is calibrated{other}"
        )
        return None
    return {name: Range(float(own["scale"]), int(own["zero_point"])) for name, own in stored["ranges"].items()}


def _against_trained(qat: Artifact, answers: Predictions, logits: npt.NDArray[np.float32]) -> ParityReport:
    """The file against the fake-quantized network on test: the same decisions, not only near ones."""
    trained = predictions.load(qat.path).of("test")
    if not np.array_equal(trained.row, answers.row):
        raise IntegrityError(f"{qat.id}: {predictions.FILE}", "answers of other test images", "those of this run")
    same = 100.0 * float(np.mean(trained.answer == answers.answer))
    return fake_quant_parity(trained.logits.astype(np.float32), logits, same)


def _decisions(quantizer: Quantizer, judge: Judge | None, ranges: Mapping[str, Range] | None) -> dict[str, Any]:
    """What is to be recorded beside the images; nothing where nothing was decided."""
    found: dict[str, Any] = {"decided": quantizer.decided} if quantizer.decided else {}
    if judge is not None:
        found["judge"] = {"role": judge.role, "images": len(judge.rows)}
        if judge.role == "train":
            found["judge"]["rows"] = judge.rows.tolist()
    return found if ranges is None else {**found, "ranges": "trained"}


def _chosen(quantizer: Quantizer, console: Console) -> dict[str, str | int | float]:
    """What the quantizer chose, said and without the figures that it chose by."""
    found = {key: value for key, value in quantizer.decided.items() if isinstance(value, str | int | float)}
    said = [f"{key} {value}" for key, value in found.items() if 0 < len(str(value)) <= SAID]  # no list of all layers
    if said:
        console.log("quantize: chose " + ", ".join(said))
    return found


def _quantizer(params: QuantizeParams) -> Quantizer:
    quantizer = registry.construct("quantizers", params.use, params.args)
    assert isinstance(quantizer, Quantizer)
    quantizer.require(params.scheme)
    return quantizer


def _arguments(params: QuantizeParams, moot: Collection[str]) -> list[str]:
    """What else the quantizer could be told: the arguments of few values that the recipe leaves at their default."""
    known = registry.find("quantizers", params.use).arguments
    free = [argument for argument in known if argument.name not in {*params.args, *moot}]
    choices = [(a.name, re.findall(r"'(\w+)'", a.annotation)) for a in free if a.annotation.startswith("Literal[")]
    choices += [(a.name, ["true"]) for a in free if a.annotation == "bool" and a.default == "False"]
    return [f"--set quantize.{name}={'|'.join(values)}" for name, values in choices]


def _another(params: QuantizeParams) -> list[str]:
    """The quantizers that are made of this one."""
    known = registry.plugins("quantizers").values()
    wrapping = [p.name for p in known if params.use in [use for use, _ in registry.members("quantizers", p.name, {})]]
    return [f"--set quantize.use={name}" for name in wrapping]


def _training(params: QuantizeParams, inputs: Mapping[str, Artifact], facts: Mapping[str, Any]) -> list[str]:
    """Quantization-aware training, of a network without layers of its method, by the recipe as it is."""
    network = "student" in inputs["graph"].inputs and "graft" not in facts
    able = params.use == QAT_STARTS and params.scheme in QAT_SCHEMES and not beside_qat(params.args)
    if "qat" in inputs or not network or not able:
        return []
    return [f"--set qat.epochs=2 --set qat.scheme={params.scheme}"]


def batches(
    images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], norm: normalize.Statistics
) -> Iterator[npt.NDArray[np.float32]]:
    """Calibration images as quantizers take them."""
    for start in range(0, len(rows), BATCH):
        yield normalize.apply(images[rows[start : start + BATCH]], *norm)


def _finish(path: Path, graph: Path, source: Artifact, params: QuantizeParams, opset: int) -> None:
    """Strip what the tool left, say inside the file what it is, check it."""
    model = onnxfile.strip(onnxfile.load(path))
    facts = {**onnxfile.metadata(onnxfile.load(graph)), "scheme": params.scheme}
    facts |= {"quantizer": params.use, "graph": source.id, "graph_digest": source.digest}
    onnxfile.set_metadata(model, facts)
    onnxfile.check(model, f"quantized/{params.scheme}", opset)
    onnxfile.save(model, path)


def _record(
    path: Path,
    params: QuantizeParams,
    rows: npt.NDArray[np.int64],
    norm: normalize.Statistics,
    decisions: Mapping[str, Any],
) -> None:
    """What was calibrated on: the same rows for every quantizer of a seed; and what was decided."""
    write_json(
        path,
        {
            "role": "train",
            "rows": rows.tolist(),
            "images": len(rows),
            "seed": params.seed,
            "augmented": False,
            "mean": list(norm[0]),
            "std": list(norm[1]),
            "scheme": params.scheme,
            "quantizer": params.use,
            "args": params.args,
            **decisions,
        },
    )


def _golden(path: Path, source: Path, out: Path, norm: normalize.Statistics, threads: int) -> None:
    """The graph's golden images with this file's logits."""
    with np.load(source, allow_pickle=False) as file:
        images = file["images"]
    np.savez(out, images=images, logits=evaluate_onnx(path, images, np.arange(len(images)), *norm, threads))
