"""From answers and samples to tables: confusion matrix, recall per class, paired drop, latency histogram. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgekd import stats
from edgekd.report.folder import Answers
from edgekd.report.schema import ClassRecall, Confusion, Drop, Evaluation, Histogram, Number

MATRIX_CLASSES = 200  # above this a matrix cannot be read; the most frequent confusions still can
WORST = 12  # confusions listed
BINS = 60  # wide enough to see two modes, coarse enough for the 64 samples of the `quick` profile
LOG_RATIO = 4.0  # max/min above which equal bins would put almost all samples in one: bins are then equal in log
NS_PER_MS = 1e6


def evaluate(step: str, artifact: str, answers: Answers, classes: Sequence[str]) -> Evaluation:
    """Confusion matrix, worst confusions and recall per class of one model; classes: [C] names."""
    matrix = confusion(answers)
    return Evaluation(
        step=step,
        artifact=artifact,
        n=len(answers.row),
        classes=tuple(classes),
        recall=recall(matrix, classes),
        worst=worst(matrix, classes),
        matrix=tuple(tuple(map(int, row)) for row in matrix) if len(classes) <= MATRIX_CLASSES else None,
    )


def confusion(answers: Answers) -> npt.NDArray[np.int64]:
    """[C, C] counts: row = label, column = answer."""
    pairs = answers.label * answers.classes + answers.answer
    counts = np.bincount(pairs, minlength=answers.classes**2)
    return counts.reshape(answers.classes, answers.classes).astype(np.int64)


def recall(matrix: npt.NDArray[np.int64], classes: Sequence[str]) -> tuple[ClassRecall, ...]:
    """Recall per class in percent with its 95 % Wilson interval."""
    rows = []
    for i, name in enumerate(classes):
        right, n = int(matrix[i, i]), int(matrix[i].sum())
        if n == 0:
            rows.append(ClassRecall(name=name, right=0, n=0))
            continue
        low, high = stats.wilson(right, n)
        rows.append(
            ClassRecall(name=name, right=right, n=n, percent=100.0 * right / n, low=100.0 * low, high=100.0 * high)
        )
    return tuple(rows)


def worst(matrix: npt.NDArray[np.int64], classes: Sequence[str]) -> tuple[Confusion, ...]:
    """The most frequent wrong (label, answer) pairs, most frequent first, ties in class order."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:WORST]
    pairs = [divmod(int(flat), len(classes)) for flat in order]
    return tuple(
        Confusion(label=classes[i], answer=classes[j], n=int(wrong[i, j])) for i, j in pairs if wrong[i, j] > 0
    )


def top1(answers: Answers) -> Number:
    """Top-1 in percent with its 95 % Wilson interval."""
    right, n = int(answers.right.sum()), len(answers.row)
    low, high = stats.wilson(right, n)
    return Number(value=100.0 * right / n, low=100.0 * low, high=100.0 * high, n=n)


def drop(against: str, before: Answers, after: Answers) -> Drop:
    """Top-1 lost from before to after in percentage points with the paired 95 % interval; same images in both."""
    result = stats.paired_drop(before.right, after.right)
    return Drop(
        against=against,
        points=100.0 * result.drop,
        low=100.0 * result.low,
        high=100.0 * result.high,
        lost=result.lost,
        gained=result.gained,
        n=result.n,
    )


def histogram(name: str, samples_ns: npt.NDArray[np.generic]) -> Histogram:
    """All samples of one kind, from the smallest to the largest; samples_ns: [n] > 0, n >= 1."""
    ms = np.asarray(samples_ns, dtype=np.float64).ravel() / NS_PER_MS
    low, high = float(ms.min()), float(ms.max())
    if high == low:
        edges = np.array([low * 0.999, low * 1.001]) if low > 0 else np.array([-0.5, 0.5])
    elif low > 0 and high / low > LOG_RATIO:
        edges = np.geomspace(low, high, BINS + 1)
    else:
        edges = np.linspace(low, high, BINS + 1)
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)  # rounding must not lose an extreme
    counts, _ = np.histogram(ms, edges)
    return Histogram(
        name=name,
        n=len(ms),
        min_ms=low,
        p50_ms=float(np.median(ms)),
        max_ms=high,
        edges_ms=tuple(map(float, edges)),
        counts=tuple(map(int, counts)),
    )
