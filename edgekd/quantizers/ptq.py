"""Post-training quantization through onnxruntime's static quantizer.

Source: onnxruntime.quantization (Microsoft, MIT), `quantize_static`; the entropy method is S. Migacz, 8-bit inference with
TensorRT, 2017. Needs: onnxruntime.
"""

from __future__ import annotations

import io
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

from edgekd.errors import RecipeError, StageFailed
from edgekd.onnxfile import INPUT
from edgekd.quantizers.base import Quantizer

# "distribution" is left out: it gives -2 dB on CIFAR networks
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


class PTQ(Quantizer):
    """int8 by calibration alone: activation ranges from real training images, weights per channel.

    Scheme `u8s8` (x86 and ARM CPUs): QDQ, activations uint8 asymmetric, weights int8 symmetric. Signed activations are
    1.5 times slower than float on x86, unsigned ones 1.8 times faster.

    Args:
        calibrate: How ranges are chosen: `minmax`, `entropy` (least information lost) or `percentile` (99.999).
    """

    VERSION = 1
    schemes = ("u8s8",)

    def __init__(self, calibrate: Literal["minmax", "entropy", "percentile"] = "entropy") -> None:
        if calibrate not in _METHODS:
            raise RecipeError("quantize.calibrate", f"found {calibrate!r}", "one of: " + ", ".join(_METHODS))
        self.calibrate = calibrate

    def quantize(self, graph: Path, out: Path, *, calibration: Iterable[npt.NDArray[np.float32]], scheme: str) -> Path:
        """Write the quantized graph; onnxruntime's own progress lines are swallowed."""
        self.require(scheme)
        reader = _Reader(calibration)
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
            prepared = Path(folder) / "prepared.onnx"
            # its optimizer would write onnxruntime's whole list of domains into the file, its symbolic shapes need torch
            quant_pre_process(graph, prepared, skip_optimization=True, skip_symbolic_shape=True)
            try:
                quantize_static(
                    prepared,
                    out,
                    reader,
                    quant_format=QuantFormat.QDQ,
                    per_channel=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    calibrate_method=_METHODS[self.calibrate],
                    # given in order: its default is the order of a set, another one in each process
                    op_types_to_quantize=sorted({*QLinearOpsRegistry, *QDQRegistry}),
                    # one batch at a time whatever the method: otherwise every activation of all images is held in
                    # memory, and a last batch of another size is refused
                    extra_options={"CalibStridedMinMax": 1},
                )
            except ValueError as error:
                raise StageFailed(f"quantize/{scheme}", f"onnxruntime cannot quantize the graph: {error}") from error
        return out


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
    """Calibration batches as onnxruntime asks for them: a length, then ranges of batches."""

    def __init__(self, batches: Iterable[npt.NDArray[np.float32]]) -> None:
        self.batches = list(batches)
        if not sum(len(batch) for batch in self.batches):
            raise RecipeError("quantize.images", "no calibration image", "at least 1")
        self.left = iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.left = iter(self.batches[start_index:end_index])

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        batch = next(self.left, None)
        return None if batch is None else {INPUT: batch}
