"""Calibration images -> the range of every activation.

Source: onnxruntime.quantization (Microsoft, MIT) for minmax, entropy (S. Migacz, 8-bit inference with TensorRT, 2017) and
percentile; the mean squared error is our own search. Needs: onnxruntime.
"""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

from edgekd import onnxfile, onnxrun
from edgekd.errors import RecipeError, StageFailed
from edgekd.quantizers.base import Range
from edgekd.quantizers.qdq import FORMS, Form, Limits, operators

# "distribution" is left out: it gives -2 dB on CIFAR networks
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
HOLDING = ("entropy", "percentile")  # all images' values at once
HELD_BYTES = 8 * 2**30  # of activations at once: above it a machine of 16 GiB would be killed without a word
BINS = 16384  # of a value's histogram: 64 to a step of the whole range, 3 to one of the smallest range that is tried
SHRINKS = np.linspace(1.0, 0.05, 96)  # parts of the largest value that are tried as the end of the range
Batches = Sequence[npt.NDArray[np.float32]]
Array = npt.NDArray[np.float64]


def limits(model: ModelProto, batches: Batches, method: str, scheme: str) -> Limits:
    """{value: (lowest, highest)} by one of onnxruntime's METHODS.

    Args:
        model: As `qdq.prepare` gives it.
        batches: [B, C, H, W] each, not empty.
        method: One of METHODS.
        scheme: Whose operators' values are looked at.

    Raises:
        RecipeError: The method would hold more than memory.
        StageFailed: onnxruntime cannot calibrate the graph.
    """
    if method in HOLDING:
        # a histogram's bins are those of the first call: more than one would make the ranges hang on the batch size (34 to
        # 38 dB seen), and a last batch of another size is refused
        batches = [np.concatenate(list(batches))]
        _check_memory(model, len(batches[0]), method)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        path = onnxfile.save(model, Path(folder) / "model.onnx")
        try:
            tool = create_calibrator(
                path,
                list(operators(model, scheme)),
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=METHODS[method],
            )
            for batch in batches:  # forget each before the next one
                tool.collect_data(_Reader(batch))
            found = tool.compute_data()
        except ValueError as error:
            raise StageFailed(f"quantized/{scheme}", f"onnxruntime cannot calibrate the graph: {error}") from error
    return {name: found[name].range_value for name in found}


def least_error(
    model: ModelProto, batches: Batches, scheme: str, names: Collection[str], threads: int = 1
) -> dict[str, Range]:
    """{value: the quantization of least mean squared error on the images}; memory of one batch, two passes.

    Args:
        model: As `qdq.prepare` gives it.
        batches: [B, C, H, W] each, not empty.
        scheme: Its integers and symmetry are kept.
        names: The values to look at.
    """
    ends = dict.fromkeys(names, (np.inf, -np.inf))
    for values in observed(model, batches, names, threads):
        for name, value in values.items():
            low, high = ends[name]
            ends[name] = min(low, float(value.min())), max(high, float(value.max()))
    counts = {name: np.zeros(BINS) for name in names}
    for values in observed(model, batches, names, threads):
        for name, value in values.items():
            counts[name] += np.histogram(value, BINS, ends[name] if ends[name][0] < ends[name][1] else None)[0]
    return {name: _searched(counts[name], *ends[name], FORMS[scheme]) for name in names}


def observed(
    model: ModelProto, batches: Batches, names: Collection[str], threads: int = 1
) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """What the values of a graph are, batch by batch: {name: [B, ...]}; operator by operator, nothing fused."""
    shown = ModelProto()
    shown.CopyFrom(model)
    outputs = list(names)
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs)
    data = onnxfile.to_bytes(shown)
    for batch in batches:
        yield dict(zip(outputs, onnxrun.values(data, {onnxfile.INPUT: batch}, outputs, threads), strict=True))


def _searched(counts: Array, low: float, high: float, form: Form) -> Range:
    """The best range of a histogram: ends drawn in together, then each by itself."""
    if not low < high:
        return made(min(low, 0.0), max(high, 0.0), form)
    seen = np.flatnonzero(counts)
    counts, centres = counts[seen], low + (high - low) / BINS * (seen + 0.5)
    low, high = min(low, 0.0), max(high, 0.0)

    def error(down: float, up: float) -> float:
        tried = made(low * down, high * up, form)
        steps = np.clip(np.rint(centres / tried.scale) + tried.zero_point, form.lowest, form.highest)
        return float(counts @ (centres - (steps - tried.zero_point) * tried.scale) ** 2)

    down = up = _least(lambda part: error(part, part))
    if low < 0 < high and not form.symmetric:
        for _ in range(2):
            up = _least(partial(error, down))
            down = _least(partial(error, up=up))
    return made(low * down, high * up, form)


def _least(error: Callable[[float], float]) -> float:
    """The part of SHRINKS of least error, looked for on every eighth and then around the best of them."""
    errors = [error(float(part)) for part in SHRINKS[::8]]
    first = max(0, 8 * int(np.argmin(errors)) - 7)
    return float(min(SHRINKS[first : first + 15], key=lambda part: error(float(part))))


def made(low: float, high: float, form: Form) -> Range:
    """The quantization of a range, low <= 0 <= high; a symmetric form takes the wider side for both."""
    if form.symmetric:
        low, high = -max(-low, high), max(-low, high)
    scale = float(np.float32((high - low) / (form.highest - form.lowest)))
    if scale < np.finfo(np.float32).tiny:
        return Range(1.0, 0)
    return Range(scale, 0 if form.symmetric else round(form.lowest - low / scale))


def fits(model: ModelProto, images: int, method: str) -> bool:
    """Whether a method has the memory for so many images."""
    return method not in HOLDING or held_bytes(model, images) <= HELD_BYTES


def held_bytes(model: ModelProto, images: int) -> int:
    """Bytes of all inner activations of a graph with inferred shapes, for so many images at once."""
    weights = {tensor.name for tensor in model.graph.initializer}
    shapes = [value.type.tensor_type.shape for value in model.graph.value_info if value.name not in weights]
    # a free dimension (the batch) counts as 1
    values = sum(math.prod(max(1, dim.dim_value) for dim in shape.dim) for shape in shapes)
    return int(values * images * np.dtype(np.float32).itemsize)


def _check_memory(model: ModelProto, images: int, method: str) -> None:
    if not fits(model, images, method):
        held = held_bytes(model, images)
        raise RecipeError(
            "quantize.images",
            f"{method} holds every activation of {images} images at once: {held / 2**30:.1f} GiB",
            f"at most {HELD_BYTES / 2**30:.0f} GiB",
            f"--set quantize.images={max(1, images * HELD_BYTES // held)}, or --set quantize.calibrate=minmax",
        )


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
    """One batch, as onnxruntime asks for it."""

    def __init__(self, batch: npt.NDArray[np.float32]) -> None:
        self.left = iter([{onnxfile.INPUT: batch}])

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        return next(self.left, None)
