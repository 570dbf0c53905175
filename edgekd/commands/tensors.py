"""Tensor by tensor: which rungs of a climb are looked into, and what is said of what is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgekd import onnxfile, onnxrun
from edgekd.analysis import bisect, diverging, ladder
from edgekd.analysis.ladder import Answers, Rung
from edgekd.commands.rungs import TORCH, File, Parts
from edgekd.errors import CheckFailed

if TYPE_CHECKING:
    from onnx import ModelProto

IMAGES = 64  # every value of both graphs is held for all of them at once
HELD_BYTES = 2**29  # of one graph's values


class Tensors:
    """Looks into the files of one climb.

    Args:
        parts: What is climbed.
        files: By name of the rung.
        given: float32 [n, C, H, W], the right input.
    """

    def __init__(self, parts: Parts, files: Mapping[str, File], given: npt.NDArray[np.float32]) -> None:
        self.parts, self.files, self.given = parts, files, given

    def compared(self, rung: Rung, item: File, before: Answers, *, every: bool) -> Rung:
        """The rung with its tensors, and with the fault that is found in them.

        Looked into are rungs that fail and those at which something was quantized: a wrong scale may cost little enough to
        stay inside the bounds of the logits.
        """
        candidate = onnxfile.load(item.path)
        source = item.source or item.before
        quantizes = bisect.is_quantized(candidate) and not (
            source in self.files and bisect.is_quantized(onnxfile.load(self.files[source].path))
        )
        if not (every or quantizes or rung.state == "fails"):
            return rung
        if source == TORCH and self.parts.retrace is None:
            return rung
        reference, fault = self._reference(source)
        if fault:
            return replace(rung, state="fails", failures=(*rung.failures, fault))
        if item.equalized:
            from edgekd.quantizers.equalize import equalized

            reference = equalized(reference)
        judged = self._judged(reference, candidate, item)
        first = diverging.first(judged)
        rung = replace(rung, tensors=tuple(one.figures() for one in judged), tensors_of=source)
        if first is not None:
            name = first.tensor.spot.of
            failures = (*rung.failures, f"first diverging tensor {name}: {'; '.join(first.faults)}")
            expected = rung.expected if rung.failures else "of each tensor no more error than its arithmetic makes"
            return replace(rung, state="fails", expected=expected, failures=failures, first=first.figures())
        return self._no_culprit(rung, item, before, judged) if rung.state == "fails" else rung

    def _reference(self, source: str) -> tuple[ModelProto, str]:
        """The graph that has the right tensors, and what is wrong with it; torch stands for its graph traced anew."""
        if source != TORCH:
            return onnxfile.load(self.files[source].path), ""
        assert self.parts.retrace is not None and self.parts.network is not None
        traced = self.parts.retrace()
        given = self._batch(traced)
        import torch

        with torch.no_grad():
            wanted = self.parts.network(torch.from_numpy(given)).numpy()
        found = onnxrun.values(onnxfile.to_bytes(traced), {onnxfile.INPUT: given}, [onnxfile.OUTPUT])[0]
        report = ladder.verdict(Answers("a new trace", found), Answers(TORCH, wanted))
        return traced, "" if report.passed else "torch's exporter writes another network: " + "; ".join(report.failures)

    def _judged(self, reference: ModelProto, candidate: ModelProto, item: File) -> list[diverging.Judged]:
        def run(
            model: bytes, feeds: Mapping[str, npt.NDArray[np.floating]], names: bisect.Names
        ) -> list[npt.NDArray[np.floating]]:
            return onnxrun.values(model, feeds, names, self.parts.threads)

        tensors = bisect.compare(reference, candidate, self._batch(reference), run)
        return diverging.judge(reference, candidate, tensors, item.ranges)

    def _batch(self, model: ModelProto) -> npt.NDArray[np.float32]:
        """As many images, evenly over all, as the values of a graph are held of."""
        most = max(2, min(IMAGES, HELD_BYTES // max(bisect.bytes_per_image(model), 1)))
        n = len(self.given)
        return self.given if n <= most else self.given[np.arange(most) * n // most]

    def _no_culprit(self, rung: Rung, item: File, before: Answers, judged: list[diverging.Judged]) -> Rung:
        """What to say of a rung that fails though every tensor is as good as its arithmetic allows."""
        model = onnxfile.to_bytes(onnxfile.load(item.path))
        plain = onnxrun.values(model, {onnxfile.INPUT: self.given}, [onnxfile.OUTPUT], self.parts.threads)[0]
        try:
            alone = ladder.verdict(Answers(item.name, plain, item.scheme, item.bounds), before).passed
        except CheckFailed:
            alone = False
        if alone and not all(line.startswith("against ") for line in rung.failures):
            words = "operator by operator it passes: this CPU's fused kernels answer otherwise (edgekd doctor: VNNI)"
        else:
            loud = diverging.loudest(judged).tensor
            words = f"no one tensor is at fault, noise adds up; most comes from {loud.spot.of} ({loud.own_db:.1f} dB)"
        return replace(rung, failures=(*rung.failures, words))
