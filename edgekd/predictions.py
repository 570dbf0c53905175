"""predictions.npz: what a model answered for every image it was shown; paired tests and ledgers read it."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd import stats
from edgekd.errors import IntegrityError

FILE = "predictions.npz"
# What NumPy and zipfile are seen to raise on damaged bytes.
DAMAGED = (
    *(ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, SyntaxError, RuntimeError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)


@dataclass(frozen=True)
class Predictions:
    """One row an image.

    Attributes:
        row: [N] int64, index of the image in its source split (`train` for role val, else `test`).
        label: [N] int64, the true class.
        logits: [N, C] float16.
        role: [N] text, `val` or `test`.
        answer: [N] int64, the top-1 class of the logits before they were rounded: float16 makes ties of small gaps, and
            an exact import must reproduce its figure to the image.
    """

    row: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float16]
    role: npt.NDArray[np.str_]
    answer: npt.NDArray[np.int64]

    @classmethod
    def make(
        cls, row: npt.NDArray[np.int64], label: npt.NDArray[np.int64], logits: npt.NDArray[np.float32], role: str
    ) -> Predictions:
        """Predictions of one role from logits [N, C] at full precision; the first class wins a tie."""
        roles: npt.NDArray[np.str_] = np.full(len(row), role, dtype="<U4")
        answer = logits.argmax(axis=1).astype(np.int64)
        return cls(np.asarray(row, np.int64), np.asarray(label, np.int64), logits.astype(np.float16), roles, answer)

    @classmethod
    def join(cls, parts: Sequence[Predictions]) -> Predictions:
        """Several roles as one table."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def of(self, role: str) -> Predictions:
        """The rows of one role."""
        return self.at(self.role == role)

    def at(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Predictions:
        """Some rows, in the order given."""
        return Predictions(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """[N] bool: the top-1 answer is the label."""
        return np.asarray(self.answer == self.label)


def save(folder: Path, predictions: Predictions) -> Path:
    """Write `predictions.npz` into a folder; the same predictions give the same bytes."""
    path = folder / FILE
    np.savez(path, **{field.name: getattr(predictions, field.name) for field in fields(predictions)})
    return path


def load(folder: Path) -> Predictions:
    """Read `predictions.npz` of an artifact's folder.

    Raises:
        IntegrityError: The file is gone or damaged.
    """
    try:
        with np.load(folder / FILE, allow_pickle=False) as file:
            return Predictions(*(file[field.name] for field in fields(Predictions)))
    except DAMAGED as error:
        place = "/".join(folder.parts[-3:])  # <step>/<folder>, and a step may have two parts
        hint = "edgekd artifacts verify"
        raise IntegrityError(
            f"{place}: {FILE}", f"cannot be read ({error})", "the bytes that were sealed", hint
        ) from error


def agreement_percent(ours: Predictions, theirs: Predictions) -> float | None:
    """Part of the test images on which both answer the same, percent; None where they saw other test images."""
    a, b = ours.of("test"), theirs.of("test")
    return 100.0 * float((a.answer == b.answer).mean()) if np.array_equal(a.row, b.row) else None


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
