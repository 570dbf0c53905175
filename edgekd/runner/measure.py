"""Single stream, batch 1: the next query starts when the last has ended; every sample is kept.

Source: the shape of MLPerf Inference's SingleStream scenario, with our own shorter profiles; never an MLPerf result.
"""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Tuple

import numpy as np

from edgekd import stats
from edgekd.runner.samples import NS, Recorder, Samples

if TYPE_CHECKING:
    import numpy.typing as npt

    Image = npt.NDArray[np.uint8]
    Query = Callable[[Image], Tuple[int, int, int, int]]

__all__ = ["LABELS", "NS", "PROFILES", "Profile", "Recorder", "Samples", "WarmUp", "doubts", "make_query", "offline"]
__all__ += ["quiet", "single_stream", "summary", "warm_up"]

PERCENTILES = (50, 90, 95, 99)
WARM_WINDOW = 8  # queries whose median is compared with that of the 8 before
WARM_GAIN = 0.03  # a window less than 3 % faster than the one before: it has stopped getting faster
WARM_LEAST_S = 0.3  # clocks need this long to rise, however fast a query is
WARM_MOST_S = 10.0  # what has not settled by then will not
DRIFT = 0.1  # change of the median from the first to the last quarter that is worth a word


@dataclass(frozen=True)
class Profile:
    """How long to measure: both must be reached."""

    queries: int
    seconds: float
    offline_seconds: float


PROFILES = {
    "smoke": Profile(1, 3.0, 0.5),
    "quick": Profile(64, 10.0, 2.0),
    "mlperf": Profile(64, 600.0, 60.0),  # MLPerf's least time, and the least count of its early stopping on p90
}
LABELS = {"mlperf": "MLPerf-style, unverified"}


@dataclass(frozen=True)
class WarmUp:
    """Queries that were not counted. steady: the last two windows took the same time."""

    queries: int
    seconds: float
    steady: bool


def make_query(
    normalise: Callable[[Image], Any],
    infer: Callable[[Any], Any],
    conclude: Callable[[Any], Any],
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Query:
    """A function that answers one image [1, H, W, C] and gives four times: begun, preprocessed, inferred, answered."""

    def query(image: Image) -> Tuple[int, int, int, int]:
        begun = clock()
        batch = normalise(image)
        preprocessed = clock()
        logits = infer(batch)
        inferred = clock()
        conclude(logits)
        return begun, preprocessed, inferred, clock()

    return query


def warm_up(query: Query, pick: Callable[[int], Image]) -> WarmUp:
    """Query until it has stopped getting faster; pick(i) gives the i-th image, round and round."""
    taken: List[int] = []
    total = 0
    while True:
        for _ in range(WARM_WINDOW):
            begun, _, _, answered = query(pick(len(taken)))
            taken.append(answered - begun)
            total += answered - begun
        now = float(np.median(taken[-WARM_WINDOW:]))
        last = float(np.median(taken[-2 * WARM_WINDOW : -WARM_WINDOW])) if len(taken) > WARM_WINDOW else float("inf")
        steady = now >= (1 - WARM_GAIN) * last
        if (steady and total >= WARM_LEAST_S * NS) or total >= WARM_MOST_S * NS:
            return WarmUp(len(taken), total / NS, steady)


def single_stream(query: Query, pick: Callable[[int], Image], profile: Profile, recorder: Recorder) -> Samples:
    """Query until the profile's count and time are both reached."""
    with quiet():
        while True:
            recorder.add(query(pick(len(recorder))))
            if len(recorder) >= profile.queries and recorder.seconds >= profile.seconds:
                return recorder.samples()


@contextmanager
def quiet() -> Iterator[None]:
    """The garbage collector rests while the block runs."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def offline(
    answer: Callable[[Image], Any],
    batches: List[Image],
    seconds: float,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Dict[str, Any]:
    """Batches one after the other for so many seconds, preprocessing included: images per second."""
    answer(batches[0])  # the engine plans memory for a new shape once
    images, begun = 0, clock()
    while True:
        batch = batches[images // len(batches[0]) % len(batches)]
        answer(batch)
        images += len(batch)
        spent = clock() - begun
        if spent >= seconds * NS:
            return {
                "batch": len(batches[0]),
                "images": images,
                "seconds": spent / NS,
                "throughput_per_s": images * NS / spent,
            }


def summary(samples_ns: npt.NDArray[np.int64]) -> Dict[str, Any]:
    """Figures of one series in ms: percentiles that the count supports, the interval of the median, least, mean, most."""
    ms = samples_ns / 1e6
    found: Dict[str, Any] = {
        "n": len(ms),
        "min_ms": float(ms.min()),
        "mean_ms": float(ms.mean()),
        "max_ms": float(ms.max()),
        "unsupported": {},
    }
    for p in PERCENTILES:
        if not stats.percentile_supported(p, len(ms)):
            found["unsupported"]["p{}".format(p)] = stats.required_count(p)
            continue
        found["p{}_ms".format(p)] = stats.percentile(ms, p)
        if p > 50:
            found["p{}_bound_ms".format(p)] = stats.percentile_bound(ms, p)
    if len(ms) >= stats.LEAST_FOR_INTERVAL:
        found["p50_low_ms"], found["p50_high_ms"] = stats.bootstrap_interval(ms)
        found["p50_block"] = stats.median_block(ms)
    return found


def doubts(warm: WarmUp, samples: Samples) -> List[str]:
    """What the samples themselves say against the figures."""
    found = [] if warm.steady else ["still getting faster after {:.0f} s of warm-up".format(warm.seconds)]
    quarter = len(samples.end_to_end) // 4
    if quarter >= WARM_WINDOW:
        first, last = (float(np.median(part)) for part in (samples.end_to_end[:quarter], samples.end_to_end[-quarter:]))
        if abs(last / first - 1) > DRIFT:
            found.append(
                "the median changed by {:+.0f} % from the first to the last quarter".format(100 * (last / first - 1))
            )
    return found
