"""Evaluates an ONNX file with onnxruntime's CPU provider over uint8 images: the one place where edgekd itself does so.

Timings come from the runner, never from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from edgekd.console import Console
from edgekd.data import normalize
from edgekd.errors import IntegrityError, StageFailed
from edgekd.onnxfile import INPUT, OUTPUT, PREFIX
from edgekd.targets import FLOAT_BIASES

BATCH = 256  # 3 MiB of 32x32 images: wide enough for both cores, small beside any network's activations
BIAS_ROUNDING = "WeightBiasQuantization"  # onnxruntime's name of what makes the float bias of an int8 layer int32
ERRORS_ONLY = 3  # onnxruntime's severity; warnings would go to the terminal between our lines

_REFUSALS = (  # onnxruntime's exceptions have no common base of their own
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


def session(model: Path | bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    """A CPU session of a file or of serialised bytes; a file whose biases are to stay in float is run with them so.

    Args:
        model: `model.onnx`, or its bytes.
        threads: Threads of one operator, >= 1; 0 = one for each core.

    Raises:
        IntegrityError: onnxruntime cannot read it, or it is not `input` -> `logits`.
    """
    name = model.name if isinstance(model, Path) else "graph"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    source = str(model) if isinstance(model, Path) else model
    try:
        opened = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        if opened.get_modelmeta().custom_metadata_map.get(PREFIX + "scheme") in FLOAT_BIASES:
            opened = onnxruntime.InferenceSession(
                source, options, providers=["CPUExecutionProvider"], disabled_optimizers=[BIAS_ROUNDING]
            )
    except _REFUSALS as error:
        raise IntegrityError(name, f"onnxruntime cannot load it ({error})", "an intact ONNX file") from error
    names = [value.name for value in opened.get_inputs()], [value.name for value in opened.get_outputs()]
    if names != ([INPUT], [OUTPUT]):
        raise IntegrityError(name, f"inputs {names[0]}, outputs {names[1]}", f"{INPUT} -> {OUTPUT}")
    return opened


def infer(opened: onnxruntime.InferenceSession, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Logits [B, C] of normalised images [B, C, H, W].

    Raises:
        StageFailed: The network refuses the batch (other channels or size).
    """
    try:
        return np.asarray(opened.run([OUTPUT], {INPUT: batch})[0], dtype=np.float32)
    except _REFUSALS as error:
        wanted = opened.get_inputs()[0].shape
        raise StageFailed(
            "onnxruntime", f"refuses a batch of shape {list(batch.shape)}: {error}", f"{wanted}"
        ) from error


def values(
    model: bytes, feeds: Mapping[str, npt.NDArray[Any]], names: Sequence[str], threads: int = 1
) -> list[npt.NDArray[Any]]:
    """Any outputs of a graph with any inputs, computed operator by operator as the graph says: nothing is fused.

    Raises:
        IntegrityError: onnxruntime cannot load it.
        StageFailed: It refuses the values.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = ERRORS_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        opened = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except _REFUSALS as error:
        raise IntegrityError("graph", f"onnxruntime cannot load it ({error})", "an intact ONNX file") from error
    try:
        found: list[npt.NDArray[Any]] = opened.run(list(names), dict(feeds))
    except _REFUSALS as error:
        raise StageFailed("onnxruntime", f"refuses the values: {error}", "values of the graph's shapes") from error
    return found


def evaluate_onnx(
    path: Path,
    images: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    threads: int = 1,
    batch: int = BATCH,
    console: Console | None = None,
) -> npt.NDArray[np.float32]:
    """Logits of an ONNX file for the chosen images.

    Args:
        path: The file.
        images: uint8 [N, H, W, C]; may be a memory map: only a batch at a time is read.
        rows: [n], which images, in the order of the answer.
        mean: Per channel, of pixels in [0, 1].
        std: Per channel, of pixels in [0, 1].
        threads: Threads of one operator; 0 = one for each core.
        batch: Images at a time, >= 1.
        console: Where progress is shown; None: nowhere.

    Returns:
        [n, classes] float32.

    Raises:
        IntegrityError: The file cannot be loaded.
        StageFailed: `rows` is empty, or the network takes other images.
    """
    if not len(rows):
        raise StageFailed(path.name, "no image to evaluate", "at least one row")
    opened = session(path, threads)
    parts = []
    with (console or Console(quiet=True)).task(f"evaluate {path.name}", len(rows), "img") as task:
        for start in range(0, len(rows), batch):
            chosen = rows[start : start + batch]
            parts.append(infer(opened, normalize.apply(images[chosen], mean, std)))
            task.advance(len(chosen))
    return np.concatenate(parts)
