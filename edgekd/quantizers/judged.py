"""What a quantized graph is worth on the judge's images: answers kept, answers right, noise."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edgekd import agreement, onnxfile, onnxrun, stats
from edgekd.profiles import INT8_MIN_AGREEMENT_PERCENT, INT8_MIN_SQNR_DB
from edgekd.quantizers.base import Judge

BOTH_SIDES = 0.90  # of an interval each of whose ends is a one-sided bound of 95 %


@dataclass(frozen=True)
class Score:
    """A graph against the float one on the same images.

    Attributes:
        images: How many.
        agreement_percent: Same top-1.
        sqnr_db: Signal to quantization noise of the logits.
        top1_percent: Right answers.
        drop_pp: Points of top-1 lost to the float graph; below 0 when gained.
        drop_bound_pp: One-sided 95 % upper bound of the drop, paired.
    """

    images: int
    agreement_percent: float
    sqnr_db: float
    top1_percent: float
    drop_pp: float
    drop_bound_pp: float

    @property
    def parity(self) -> bool:
        """Whether an int8 file of these figures would be let pass on other images, too: by the one-sided 95 % bound of the
        agreement, and where so few images could not show it, when all are answered alike.
        """
        low, most = (stats.wilson(same, self.images, BOTH_SIDES)[0] for same in (self._same, self.images))
        return 100 * low >= min(INT8_MIN_AGREEMENT_PERCENT, 100 * most) and self.sqnr_db >= INT8_MIN_SQNR_DB

    @property
    def _same(self) -> int:
        return round(self.images * self.agreement_percent / 100)

    def figures(self) -> dict[str, Any]:
        """As plain JSON values, rounded to what they are worth."""
        return {"images": self.images} | {name: round(v, 4) for name, v in vars(self).items() if name != "images"}


def logits(model: ModelProto, judge: Judge) -> npt.NDArray[np.float32]:
    """[n, classes] of the judge's images."""
    with tempfile.TemporaryDirectory() as folder:
        path = onnxfile.save(model, Path(folder) / "model.onnx")
        return onnxrun.evaluate_onnx(path, judge.images, judge.rows, judge.mean, judge.std, judge.threads)


def score(reference: npt.NDArray[np.float32], found: npt.NDArray[np.float32], judge: Judge) -> Score:
    """Of logits [n, classes] against the float graph's."""
    right = [answers.argmax(axis=1) == judge.labels for answers in (reference, found)]
    drop = stats.paired_drop(*right)
    bound = float(stats.drop_bound(drop.lost, drop.gained, drop.n))
    sqnr = min(agreement.EXACT_DB, max(-agreement.EXACT_DB, agreement.sqnr_db(reference, found)))
    same = 100.0 * agreement.top1_agreement(reference, found)
    return Score(len(found), same, sqnr, 100.0 * float(right[1].mean()), 100 * drop.drop, 100 * bound)


def finest_pp(images: int) -> float:
    """The bound, in points, of a file that answers as the float network does on all images."""
    return 100.0 * float(stats.drop_bound(0, 0, images))


def words(one: Mapping[str, Any]) -> str:
    """The figures of a score for people."""
    return (
        f"{one['drop_pp']:.2f} points are lost, at most {one['drop_bound_pp']:.2f}, agreement "
        f"{one['agreement_percent']:.2f} %, SQNR {one['sqnr_db']:.1f} dB"
    )
