"""Times of queries: kept while they run, as series afterwards."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Callable, Dict, Sequence, Tuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

NS = 1_000_000_000


@dataclass(frozen=True)
class Samples:
    """Nanoseconds of each query in the order taken, [n] int64 each: end_to_end = preprocess + inference + postprocess.

    `parts`: what the inference consists of, where the engine times it apart.
    """

    preprocess: npt.NDArray[np.int64]
    inference: npt.NDArray[np.int64]
    postprocess: npt.NDArray[np.int64]
    end_to_end: npt.NDArray[np.int64]
    parts: Dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)

    @property
    def latency(self) -> Dict[str, npt.NDArray[np.int64]]:
        """The four series by name."""
        names = ("end_to_end", "preprocess", "inference", "postprocess")
        return {name: getattr(self, name) for name in names}


class Recorder:
    """Keeps the times of queries, 8 bytes each: ten minutes of a fast network are millions.

    Args:
        parts: Names of what an inference consists of; none: it is not timed apart.
        last: Gives the nanoseconds of each part of the last inference.
    """

    def __init__(self, parts: Sequence[str] = (), last: Callable[[], Sequence[int]] = tuple) -> None:
        self._parts, self._last = tuple(parts), last
        self._times, self._apart = array("q"), array("q")

    def add(self, times: Tuple[int, int, int, int]) -> None:
        """Take in one query, as it gave its four times."""
        self._times.extend(times)
        if self._parts:
            self._apart.extend(self._last())

    def __len__(self) -> int:
        return len(self._times) // 4

    @property
    def seconds(self) -> float:
        """From the first query's begin to the last one's end."""
        return (self._times[-1] - self._times[0]) / NS if self._times else 0.0

    @property
    def span(self) -> Tuple[float, float]:
        """The first query's begin and the last one's end, in seconds of `time.perf_counter`; at least one was taken."""
        return self._times[0] / NS, self._times[-1] / NS

    def samples(self, first: int = 0) -> Samples:
        """What was taken, from the query `first` on."""
        begun, preprocessed, inferred, answered = np.array(self._times[4 * first :], np.int64).reshape(-1, 4).T
        count = len(self._parts)
        apart = np.array(self._apart[count * first :], np.int64).reshape(len(begun), count).T
        return Samples(
            preprocessed - begun,
            inferred - preprocessed,
            answered - inferred,
            answered - begun,
            dict(zip(self._parts, apart)),
        )
