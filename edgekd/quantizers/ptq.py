"""Post-training quantization: ranges from calibration images, the graph written by onnxruntime's QDQ quantizer.

Source: onnxruntime.quantization (Microsoft, MIT); the modules `calibrate`, `bias` and `equalize` name theirs.
Needs: onnxruntime.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edgekd import onnxfile
from edgekd.errors import RecipeError
from edgekd.quantizers import bias, calibrate, gates, judged, qdq
from edgekd.quantizers.base import Judge, Quantizer, Range
from edgekd.quantizers.calibrate import Batches
from edgekd.quantizers.draft import Draft
from edgekd.quantizers.equalize import equalized, pairs

MSE, AUTO = "mse", "auto"
CANDIDATES = (*calibrate.METHODS, MSE)


class PTQ(Quantizer):
    """int8 by calibration alone: activation ranges from real training images, weights per channel.

    Scheme `u8s8` (x86 and ARM CPUs): activations uint8 asymmetric, weights int8 symmetric, logits of a Gemm in float. Scheme
    `s8-trt` (TensorRT): activations int8 symmetric, rounded on the inputs of Conv, Gemm and Add alone, bias in float; 1.5
    times slower than float on x86. Scheme `qnn` (Qualcomm Hexagon): as `u8s8`, rounded around every operator, the logits too.

    Args:
        calibrate: How ranges are chosen: `minmax` (memory of one batch); `percentile` (99.999 % of the values, memory of
            all images); `entropy` (memory of all images; onnxruntime looks for the threshold among 128 bins for 128
            levels, which leaves one candidate: the ranges come out as those of `minmax`); `mse` (least mean squared error
            of each value, memory of one batch); `auto`: all of them, the best by answers kept on validation images.
        gates: How the convolutions of pooled vectors run, which are the gates of squeeze-and-excitation blocks: `int8` as
            all others, or `float` with int8 weights. Worth 4 dB in one MobileNetV3-Small of 96x96 pixels (27 to 31) and
            nothing in another (34), in a file as small, 14 % slower on x86: try it when parity fails.
        bias_correction: Take the shift of each layer's output mean, measured on the calibration images, out of its bias: 0.6 to
            1.1 dB more on a ResNet-20 of CIFAR-10, 4 to 6 dB on a ResNet-8. Not done beside `qat`, whose biases were trained.
        equalize: Balance the weights of neighbouring convolutions first; meant for depthwise ones.
    """

    VERSION = 3  # 2: the logits of a Gemm stay in float; 3: biases are corrected by default
    schemes = ("u8s8", "s8-trt", "qnn")

    def __init__(
        self,
        calibrate: Literal["minmax", "entropy", "percentile", "mse", "auto"] = "entropy",
        gates: Literal["int8", "float"] = "int8",
        bias_correction: bool = True,
        equalize: bool = False,
    ) -> None:
        super().__init__()
        if calibrate not in (*CANDIDATES, AUTO):
            raise RecipeError("quantize.calibrate", f"found {calibrate!r}", "one of: " + ", ".join((*CANDIDATES, AUTO)))
        self.calibrate, self.gates, self.bias_correction, self.equalize = calibrate, gates, bias_correction, equalize

    @property
    def judged(self) -> bool:
        """With `auto` alone."""
        return self.calibrate == AUTO

    def moot(self, graph: Path) -> frozenset[str]:
        """`gates` where there are none, `equalize` where no convolution feeds another alone."""
        model = qdq.prepare(graph)
        there = {"gates": gates.gates(model), "equalize": pairs(model)}
        return frozenset(name for name, found in there.items() if not found)

    def quantize(
        self,
        graph: Path,
        out: Path,
        *,
        calibration: Iterable[npt.NDArray[np.float32]],
        scheme: str,
        judge: Judge | None = None,
        ranges: Mapping[str, Range] | None = None,
    ) -> Path:
        """Write the quantized graph; onnxruntime's own progress lines are swallowed."""
        return onnxfile.save(self.draft(graph, calibration, scheme, judge, ranges).written(), out)

    def draft(
        self,
        graph: Path,
        calibration: Iterable[npt.NDArray[np.float32]],
        scheme: str,
        judge: Judge | None = None,
        ranges: Mapping[str, Range] | None = None,
    ) -> Draft:
        """Decide the ranges; arguments and errors as of `quantize`."""
        self.require(scheme)
        model = qdq.prepare(graph)
        if ranges is not None:
            return self._trained(Draft(model, scheme, gates=self._gates(model)), ranges)
        batches = [batch for batch in calibration if len(batch)]
        if not batches:
            raise RecipeError("quantize.images", "no calibration image", "at least 1")
        model = equalized(model) if self.equalize else model
        empty = Draft(model, scheme, gates=self._gates(model))
        if self.calibrate == AUTO:
            return self._best(empty, batches, judge)
        return self._calibrated(empty, batches, self.calibrate, 1 if judge is None else judge.threads)

    def _gates(self, model: ModelProto) -> tuple[str, ...]:
        return tuple(gates.gates(model)) if self.gates == "float" else ()

    def _calibrated(self, empty: Draft, batches: Batches, method: str, threads: int) -> Draft:
        if method == MSE:
            names = qdq.activations(empty.model, empty.scheme, empty.left)
            own = calibrate.least_error(empty.model, batches, empty.scheme, set(names.values()), threads)
            made = replace(empty, exact={name: own[source] for name, source in names.items()})
        else:
            made = replace(empty, limits=calibrate.limits(empty.model, batches, method, empty.scheme))
        if not self.bias_correction:
            return made
        return replace(
            made, shifts=bias.shifts(made.model, made.scheme, made.limits, made.exact, batches, made.gates, threads)
        )

    def _best(self, empty: Draft, batches: Batches, judge: Judge | None) -> Draft:
        """Every calibrator in turn: the one that keeps most answers, then the one of least noise."""
        if judge is None:
            raise RecipeError("quantize.calibrate", "auto has no image to decide on", "data.val > 0")
        reference = judged.logits(empty.model, judge)
        images = sum(len(batch) for batch in batches)
        drafts = {
            method: self._calibrated(empty, batches, method, judge.threads)
            for method in CANDIDATES
            if calibrate.fits(empty.model, images, method)
        }
        scores = {m: judged.score(reference, judged.logits(d.written(), judge), judge) for m, d in drafts.items()}
        best = max(scores, key=lambda method: (scores[method].agreement_percent, scores[method].sqnr_db))
        figures: dict[str, Any] = dict.fromkeys(CANDIDATES, "needs more memory")
        figures |= {method: score.figures() for method, score in scores.items()}
        self.decided = {"calibrate": best, "candidates": figures}
        return drafts[best]

    def _trained(self, empty: Draft, ranges: Mapping[str, Range]) -> Draft:
        """The ranges that a network was trained with, as they are."""
        if self.equalize:
            found = "changes the network, which was trained with the quantization that it has"
            raise RecipeError("quantize.equalize", found, "left out", "--set quantize.equalize=false")
        return empty.with_ranges(ranges)
