"""Throughput in batches, and the accuracy of this very file over all test images, in pieces that outlive a kill."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List

import numpy as np

from edgekd import stats
from edgekd.runner import atomic, measure, verify
from edgekd.runner.failure import INTEGRITY, USAGE, RunnerError
from edgekd.runner.loaded import Loaded
from edgekd.runner.partial import Partial

if TYPE_CHECKING:
    import numpy.typing as npt

# Images that the stream and the throughput pass go round: enough that none is always in the nearest cache.
DISTINCT = 256
PIECE_S = 2.0  # what a kill may cost of the accuracy pass
WHOLE_BYTES = 1 << 28  # input at once of an engine that wants as many images as it gets


@dataclass(frozen=True)
class Data:
    """The test images of a bundle: images uint8 [N, H, W, C] memory-mapped, labels int64 [N], rows int64 [n] to be answered."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]

    def stream(self) -> List[npt.NDArray[np.uint8]]:
        """Images [1, H, W, C] to go round."""
        return [np.ascontiguousarray(self.images[row : row + 1]) for row in self.rows[:DISTINCT]]


def data(model: Loaded) -> Data:
    """The test images of a bundle whose files are verified.

    Raises:
        RunnerError: 2: a deployment bundle; 6: not arrays that go together.
    """
    bundle = model.bundle
    if not bundle.images:
        raise RunnerError(USAGE, "bundle.json: kind", bundle.kind, "bench", "selftest, predict and serve-stdin do it")
    images = verify.array(bundle, bundle.images, np.uint8, 4)
    labels = verify.array(bundle, bundle.labels_file, np.int64, 1)
    rows = verify.array(bundle, bundle.rows, np.int64, 1)
    if len(images) != len(labels) or images.shape[3] != len(bundle.mean):
        found = "shape {} with {} labels".format(images.shape, len(labels))
        raise RunnerError(INTEGRITY, bundle.images, found, "one label an image, one mean a channel")
    if len(rows) == 0 or int(rows.min()) < 0 or int(rows.max()) >= len(images):
        raise RunnerError(INTEGRITY, bundle.rows, "{} rows".format(len(rows)), "rows in 0..{}".format(len(images) - 1))
    return Data(images, labels, rows)


def throughput(model: Loaded, tests: Data, profile: measure.Profile) -> Dict[str, Any]:
    """The offline scenario: `measure.offline` over the first images."""
    size = _batch(model, tests)
    full = max(1, min(len(tests.rows), max(DISTINCT, size)) // size)
    batches = [np.asarray(tests.images[tests.rows[i * size : (i + 1) * size]]) for i in range(full)]
    return measure.offline(model.answer, batches, profile.offline_seconds)


def accuracy(model: Loaded, tests: Data, kept: Partial, out: Path) -> Dict[str, Any]:
    """Answer what no earlier run has; writes predictions.npz and gives `accuracy` of result.json."""
    rows = tests.rows
    logits = _logits(model, tests, kept)
    truth, answer = np.asarray(tests.labels[rows]), logits.argmax(axis=1).astype(np.int64)
    right = int(np.sum(answer == truth))
    low, high = stats.wilson(right, len(rows))
    atomic.arrays(
        out / "predictions.npz",
        row=np.asarray(rows),
        label=truth,
        logits=logits.astype(np.float16),
        role=np.full(len(rows), "test"),
        answer=answer,
    )
    return {
        "right": right,
        "n": len(rows),
        "top1_percent": 100 * right / len(rows),
        "top1_low_percent": 100 * low,
        "top1_high_percent": 100 * high,
    }


def _logits(model: Loaded, tests: Data, kept: Partial) -> npt.NDArray[np.float32]:
    """Logits float32 [n, classes] of all rows; new ones are kept every PIECE_S seconds, and when the run is cut short."""
    classes, size = len(model.bundle.labels), _batch(model, tests)
    done = kept.answers(classes)[: len(tests.rows)]
    kept.say(len(done), len(tests.rows))
    fresh: List[npt.NDArray[np.float32]] = []
    pieces, first, count, begun = [done], len(done), len(done), time.monotonic()
    try:
        while count < len(tests.rows):
            part = tests.rows[count : count + size]
            found = model.answer(tests.images[part])
            if found.shape != (len(part), classes):
                was = "answers of shape {}".format(found.shape)
                raise RunnerError(INTEGRITY, model.bundle.model, was, "[{}, {}]".format(len(part), classes))
            fresh.append(np.asarray(found, np.float32))
            count += len(part)
            if time.monotonic() - begun >= PIECE_S and count < len(tests.rows):
                pieces.append(_keep(kept, first, fresh))
                kept.say(count, len(tests.rows))
                fresh, first, begun = [], count, time.monotonic()
    finally:
        if fresh and count < len(tests.rows):
            _keep(kept, first, fresh)
    return np.concatenate(pieces + fresh)


def _keep(kept: Partial, first: int, fresh: List[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    piece = np.concatenate(fresh)
    kept.keep_answers(first, piece)
    return piece


def _batch(model: Loaded, tests: Data) -> int:
    """Images at once."""
    if model.runtime.batch is not None:
        return model.runtime.batch
    most = max(1, WHOLE_BYTES // (4 * int(np.prod(tests.images.shape[1:])))) if model.runtime.whole else 0
    return min(max(most, model.bundle.batch), len(tests.rows))
