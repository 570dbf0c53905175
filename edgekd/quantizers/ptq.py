"""Post-training quantization through onnxruntime's static quantizer.

Source: onnxruntime.quantization (Microsoft, MIT), `quantize_static`; the entropy method is S. Migacz, 8-bit inference with
TensorRT, 2017. Needs: onnxruntime.
"""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgekd import onnxfile
from edgekd.errors import RecipeError, StageFailed
from edgekd.quantizers import gates as gating
from edgekd.quantizers.base import Quantizer

# "distribution" is left out: it gives -2 dB on CIFAR networks
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


_HELD_BYTES = 8 * 2**30  # of activations at once: above it a machine of 16 GiB would be killed without a word


class PTQ(Quantizer):
    """int8 by calibration alone: activation ranges from real training images, weights per channel.

    Scheme `u8s8` (x86 and ARM CPUs): QDQ, activations uint8 asymmetric, weights int8 symmetric. Signed activations are
    1.5 times slower than float on x86, unsigned ones 1.8 times faster.

    Args:
        calibrate: How ranges are chosen: `minmax` (memory of one batch); `percentile` (99.999 % of the values, memory of
            all images); `entropy` (memory of all images; onnxruntime looks for the threshold among 128 bins for 128
            levels, which leaves one candidate: the ranges come out as those of `minmax`).
        gates: How the convolutions of pooled vectors run, which are the gates of squeeze-and-excitation blocks: `int8` as
            all others, or `float` with int8 weights. Worth 4 dB in one MobileNetV3-Small of 96x96 pixels (27 to 31) and
            nothing in another (34), in a file as small, 14 % slower on x86: try it when parity fails.
    """

    VERSION = 1
    schemes = ("u8s8",)

    def __init__(
        self,
        calibrate: Literal["minmax", "entropy", "percentile"] = "entropy",
        gates: Literal["int8", "float"] = "int8",
    ) -> None:
        if calibrate not in _METHODS:
            raise RecipeError("quantize.calibrate", f"found {calibrate!r}", "one of: " + ", ".join(_METHODS))
        self.calibrate, self.gates = calibrate, gates

    def quantize(self, graph: Path, out: Path, *, calibration: Iterable[npt.NDArray[np.float32]], scheme: str) -> Path:
        """Write the quantized graph; onnxruntime's own progress lines are swallowed."""
        self.require(scheme)
        batches = [batch for batch in calibration if len(batch)]
        if not batches:
            raise RecipeError("quantize.images", "no calibration image", "at least 1")
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
            prepared = Path(folder) / "prepared.onnx"
            # its optimizer would write onnxruntime's whole list of domains into the file, its symbolic shapes need torch
            quant_pre_process(graph, prepared, skip_optimization=True, skip_symbolic_shape=True)
            if self.calibrate != "minmax":
                # a histogram's bins are those of the first call: more than one would make the ranges hang on the
                # batch size (34 to 38 dB seen), and a last batch of another size is refused
                batches = [np.concatenate(batches)]
                _check_memory(prepared, len(batches[0]), self.calibrate)
            float_graph = onnxfile.load(prepared)
            kept = gating.gates(float_graph) if self.gates == "float" else []
            try:
                quantize_static(
                    prepared,
                    out,
                    _Reader(batches),
                    quant_format=QuantFormat.QDQ,
                    per_channel=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    calibrate_method=_METHODS[self.calibrate],
                    # given in order: its default is the order of a set, another one in each process
                    op_types_to_quantize=sorted({*QLinearOpsRegistry, *QDQRegistry}),
                    nodes_to_exclude=[*kept, *gating.feeding(float_graph, kept)],
                    extra_options={"CalibStridedMinMax": 1},  # forget each batch before the next one
                )
            except ValueError as error:
                raise StageFailed(f"quantized/{scheme}", f"onnxruntime cannot quantize the graph: {error}") from error
        return onnxfile.save(gating.quantize_weights(onnxfile.load(out), kept), out) if kept else out


def held_bytes(graph: Path, images: int) -> int:
    """Bytes of all inner activations of a graph with inferred shapes, for so many images at once."""
    model = onnxfile.load(graph).graph
    weights = {tensor.name for tensor in model.initializer}
    shapes = [value.type.tensor_type.shape for value in model.value_info if value.name not in weights]
    # a free dimension (the batch) counts as 1
    values = sum(math.prod(max(1, dim.dim_value) for dim in shape.dim) for shape in shapes)
    return int(values * images * np.dtype(np.float32).itemsize)


def _check_memory(graph: Path, images: int, method: str) -> None:
    held = held_bytes(graph, images)
    if held > _HELD_BYTES:
        raise RecipeError(
            "quantize.images",
            f"{method} holds every activation of {images} images at once: {held / 2**30:.1f} GiB",
            f"at most {_HELD_BYTES / 2**30:.0f} GiB",
            f"--set quantize.images={max(1, images * _HELD_BYTES // held)}, or --set quantize.calibrate=minmax",
        )


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
    """Calibration batches as onnxruntime asks for them: a length, then ranges of batches."""

    def __init__(self, batches: list[npt.NDArray[np.float32]]) -> None:
        self.batches = batches
        self.left = iter(batches)

    def __len__(self) -> int:
        return len(self.batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.left = iter(self.batches[start_index:end_index])

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        batch = next(self.left, None)
        return None if batch is None else {onnxfile.INPUT: batch}
