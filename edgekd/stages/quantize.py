"""Stage `quantize`: the canonical graph -> the graph of one scheme, calibrated on training images, proven to answer alike."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekd import onnxfile, predictions, registry
from edgekd.analysis.parity import int8_parity
from edgekd.artifact import Artifact
from edgekd.data import calibration, normalize, roles
from edgekd.errors import RecipeError
from edgekd.onnxrun import evaluate_onnx
from edgekd.params import QuantizeParams
from edgekd.quantizers.base import Quantizer
from edgekd.stages.base import RunContext, StageResult
from edgekd.stages.converted import (
    conclude,
    normalization,
    parity_metrics,
    predict,
    read_json,
    write_json,
)

VERSION = 1
PAYLOAD = ("model.onnx", "model.json", "golden.npz", "calibration.json", predictions.FILE)
BATCH = 64  # calibration images at a time: every activation of a batch is in memory at once


def check(params: QuantizeParams, context: RunContext) -> None:
    """Raise what can be known before work.

    Raises:
        RecipeError: Unknown quantizer, argument or scheme; no calibration image asked, or more than train has.
    """
    if params.images < 1:
        raise RecipeError("quantize.images", str(params.images), ">= 1")
    train = params.roles.train
    if train is None and context.train_images is not None:
        train = context.train_images - params.roles.val
    if train is not None and params.images > train:  # before training, not after it
        raise RecipeError("quantize.images", f"{params.images} images", f"1 to {train}, the number of training images")
    _quantizer(params)


def run(params: QuantizeParams, inputs: Mapping[str, Artifact], out: Path, context: RunContext) -> StageResult:
    """Calibrate, quantize, check, compare with the float graph, evaluate.

    Args:
        params: Scheme, quantizer and its arguments, number of calibration images, roles, seed.
        inputs: `data` and `graph`.
        out: Where `model.onnx`, `model.json`, `golden.npz`, `calibration.json`, `predictions.npz`, `parity.json` go.
        context: Console and threads.

    Raises:
        RecipeError: Fewer training images than `quantize.images`.
        CheckFailed: The quantized graph answers too differently.
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
    _quantizer(params).quantize(graph, path, calibration=_batches(train, rows, norm), scheme=params.scheme)
    _finish(path, graph, inputs["graph"], params, facts["opset"])
    facts = {**facts, "scheme": params.scheme}
    write_json(out / "model.json", facts)
    _record(out / "calibration.json", params, rows, norm)
    _golden(path, inputs["graph"].path / "golden.npz", out / "golden.npz", norm, context.threads)

    answers, found = predict(path, arrays, norm, context)
    predictions.save(out, answers)
    test = arrays.images("test")
    wanted = evaluate_onnx(graph, test.images, test.rows, *norm, context.threads)
    report = int8_parity(wanted, found)
    conclude(out, f"quantized/{params.scheme}", "the float graph", {"test": report}, context, hint=_hint(params))
    return StageResult(
        metrics={
            **predictions.summarize(answers),
            **parity_metrics(report),
            "calibration_images": len(rows),
            "file_bytes": path.stat().st_size,
            "parameters": facts["parameters"],
            "macs": facts["macs"],
        },
        payload=PAYLOAD,
    )


def _quantizer(params: QuantizeParams) -> Quantizer:
    quantizer = registry.construct("quantizers", params.use, params.args)
    assert isinstance(quantizer, Quantizer)
    quantizer.require(params.scheme)
    return quantizer


def _hint(params: QuantizeParams) -> str:
    """What else the quantizer could be told: the arguments with a closed choice that the recipe leaves at their default."""
    free = [a for a in registry.find("quantizers", params.use).arguments if a.name not in params.args]
    choices = [(a.name, re.findall(r"'(\w+)'", a.annotation)) for a in free if a.annotation.startswith("Literal[")]
    return " or ".join(f"--set quantize.{name}={'|'.join(values)}" for name, values in choices)


def _batches(
    images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], norm: normalize.Statistics
) -> Iterator[npt.NDArray[np.float32]]:
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


def _record(path: Path, params: QuantizeParams, rows: npt.NDArray[np.int64], norm: normalize.Statistics) -> None:
    """What was calibrated on: the same rows for every quantizer of a seed."""
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
        },
    )


def _golden(path: Path, source: Path, out: Path, norm: normalize.Statistics, threads: int) -> None:
    """The graph's golden images with this file's logits."""
    with np.load(source, allow_pickle=False) as file:
        images = file["images"]
    np.savez(out, images=images, logits=evaluate_onnx(path, images, np.arange(len(images)), *norm, threads))
