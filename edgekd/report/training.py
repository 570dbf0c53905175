"""What training left behind: loss curves, attention of the method, whether the method is a reconstruction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekd import methods
from edgekd.errors import IntegrityError
from edgekd.report.folder import Folder, clean
from edgekd.report.schema import Attention, Curve

NOT_LOSSES = ("epoch", "lr", "n_val")
NOT_LOSS_ENDS = ("_seconds", "_per_second", "_percent")


def method(student: Folder) -> str:
    """Name of the distiller that taught a student; empty when not recorded."""
    return str((student.params.get("distill") or {}).get("use") or "")


def reconstruction(student: Folder | None) -> str | None:
    """The sentence that a report must carry when the method is rebuilt from an abstract, else None."""
    if student is None:
        return None
    distill = student.params.get("distill") or {}
    rebuilt = methods.reconstructions(method(student), distill.get("args") or {})
    if not rebuilt and student.metrics.get("reconstruction"):
        rebuilt = [method(student) or "the method"]
    if not rebuilt:
        return None
    names = " and ".join(name.upper() for name in rebuilt)
    return f"{names} here is an edgekd reconstruction from the paper's abstract, not the authors' code"


def curve(name: str, what: str, folder: Folder) -> Curve | None:
    """Training history of one step, None for a step that was not trained here (imported, or no training step)."""
    history = folder.json("history.json")
    if not history:
        return None
    keys = list(dict.fromkeys(key for row in history for key in row))
    losses = [
        key for key in keys if key not in NOT_LOSSES and not key.endswith(NOT_LOSS_ENDS) and _drawable(history, key)
    ]
    if len(losses) == 2:  # one term: the total `loss` is the same line
        losses = [key for key in losses if key != "loss"]

    def column(key: str) -> tuple[float | None, ...]:
        return tuple(row.get(key) for row in history)

    return Curve(
        step=name,
        what=what,
        epoch=tuple(int(row["epoch"]) for row in history),
        losses={key: column(key) for key in losses},
        val_top1_percent=column("val_top1_percent") if "val_top1_percent" in keys else (),
        lr=column("lr") if "lr" in keys else (),
    )


def _drawable(history: list[Mapping[str, Any]], key: str) -> bool:
    return all(isinstance(row.get(key), int | float | None) for row in history)


def attention(student: Folder | None) -> Attention | None:
    """Mean attention matrix of a student's method, None when the method gives none.

    Raises:
        IntegrityError: The matrix is no matrix, or its tap names do not fit it.
    """
    arrays = student.arrays("diagnostics.npz") if student is not None else None
    if student is None or arrays is None or "attention" not in arrays:
        return None
    matrix = np.asarray(arrays["attention"], dtype=np.float64)
    where = f"{student.artifact.id}: diagnostics.npz"
    if matrix.ndim != 2:
        raise IntegrityError(where, f"attention of shape {matrix.shape}", "[N_S, N_T]")
    taps = [_taps(arrays, "student_taps", matrix.shape[0]), _taps(arrays, "teacher_taps", matrix.shape[1])]
    if [len(taps[0]), len(taps[1])] != list(matrix.shape):
        raise IntegrityError(
            where, f"{len(taps[0])} x {len(taps[1])} tap names", f"{matrix.shape}, one a row and column"
        )
    return Attention(
        method=method(student),
        artifact=student.artifact.id,
        student_taps=taps[0],
        teacher_taps=taps[1],
        matrix=clean(matrix.tolist()),
    )


def _taps(arrays: Mapping[str, Any], key: str, count: int) -> tuple[str, ...]:
    if key not in arrays:
        return tuple(f"{key.partition('_')[0]} {i}" for i in range(count))
    return tuple(clean(str(name)) for name in np.atleast_1d(arrays[key]).tolist())
