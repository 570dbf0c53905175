"""predictions.npz: what a model answered for every image it was shown; paired tests and ledgers read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd import stats

FILE = "predictions.npz"


@dataclass(frozen=True)
class Predictions:
    """One row an image.

    Attributes:
        row: [N] int64, index of the image in its source split (`train` for role val, else `test`).
        label: [N] int64, the true class.
        logits: [N, C] float16.
        role: [N] text, `val` or `test`.
    """

    row: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float16]
    role: npt.NDArray[np.str_]

    def of(self, role: str) -> Predictions:
        """The rows of one role."""
        mask = self.role == role
        return Predictions(self.row[mask], self.label[mask], self.logits[mask], self.role[mask])

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """[N] bool: the top-1 answer is the label (the first class wins a tie)."""
        return np.asarray(self.logits.argmax(axis=1) == self.label)


def save(folder: Path, predictions: Predictions) -> Path:
    """Write `predictions.npz` into a folder; the same predictions give the same bytes."""
    path = folder / FILE
    np.savez(path, row=predictions.row, label=predictions.label, logits=predictions.logits, role=predictions.role)
    return path


def load(folder: Path) -> Predictions:
    """Read `predictions.npz` of an artifact's folder."""
    with np.load(folder / FILE, allow_pickle=False) as file:
        return Predictions(file["row"], file["label"], file["logits"], file["role"])


def summarize(predictions: Predictions) -> dict[str, Any]:
    """Metrics of every evaluation: top-1 in percent with its 95 % Wilson interval and n, per role present.

    Keys for test: `top1_percent`, `top1_low_percent`, `top1_high_percent`, `n_test`, `right_test`; for val: `val_top1_percent`, `n_val`.
    """
    metrics: dict[str, Any] = {}
    test = predictions.of("test")
    if len(test.row):
        right = int(test.right.sum())
        low, high = stats.wilson(right, len(test.row))
        metrics |= {
            "top1_percent": 100.0 * right / len(test.row),
            "top1_low_percent": 100.0 * low,
            "top1_high_percent": 100.0 * high,
            "right_test": right,
            "n_test": len(test.row),
        }
    val = predictions.of("val")
    if len(val.row):
        metrics |= {"val_top1_percent": 100.0 * float(val.right.mean()), "n_val": len(val.row)}
    return metrics
