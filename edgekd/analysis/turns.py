"""What runs that took turns say of each other: figures of each, and ratios that no drift of the machine can make.

In a round every contender measures one block of queries. What slows the machine for a while slows all blocks of a round, so the
ratio of two medians is taken within a round. Its interval comes from how it varies from sitting to sitting, each with processes
of its own: two processes of the same file differ for as long as they live, which rounds within one sitting cannot show.

Source: T. Kalibera, R. Jones, Rigorous benchmarking in reasonable time, 2013 (repeat at the highest level that varies).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd import stats

Block = npt.NDArray[np.int64]
CONFIDENCE = 0.95
WHOLE = "end_to_end"  # the part that is compared unless another one is named
LEAST_ROUNDS = 20  # blocks of bootstrap_interval are then 2 * 20^(1/3) = 5 rounds long, and 4 of them are the least to be told apart


def figures(blocks: Sequence[Mapping[str, Block]]) -> dict[str, Any]:
    """p50 and p90 in ms of each part of one run, all its blocks together, with 95 % intervals.

    Args:
        blocks: One a round: {part: nanoseconds of each query in order}.
    """
    return {part: _figures(np.concatenate([block[part] for block in blocks])) for part in blocks[0]}


def effects(
    runs: Mapping[str, Sequence[Mapping[str, Block]]],
    parts: Mapping[str, str] | None = None,
    sittings: Sequence[int] = (),
) -> list[dict[str, Any]]:
    """Every pair of runs: how many times as fast the first one is as the second.

    The intervals of all pairs hold together at 95 % (Bonferroni).

    Args:
        runs: {name: blocks, one a round}; all of the same number of rounds.
        parts: {name: the part to compare}, where it is not the whole query.
        sittings: The sitting of each round; none, or all of one: processes are not told apart from files.

    Returns:
        For each pair `first` (the faster one), `second`, `ratio` (of sittings, else the median over the rounds), `low`, `high`, `rounds`, `shown`
        (whether the interval leaves 1 out), `words`.
    """
    pairs = list(combinations(runs, 2))
    confidence = 1 - (1 - CONFIDENCE) / max(len(pairs), 1)
    medians = {name: _medians(blocks, (parts or {}).get(name, WHOLE)) for name, blocks in runs.items()}
    return [_effect(a, b, medians[b] / medians[a], confidence, sittings) for a, b in pairs]


def ratio_interval(
    ratios: npt.NDArray[np.float64], confidence: float = CONFIDENCE, sittings: Sequence[int] = ()
) -> tuple[float, float, float]:
    """(ratio, low, high) of one ratio a round, in the order of the rounds.

    Of several sittings the geometric mean of their medians, with Student's interval over the sittings.
    """
    names = sorted(set(sittings))
    if len(names) > 1:
        told = np.asarray(sittings)
        logs = np.log([float(np.median(ratios[told == name])) for name in names])
        centre, error = float(logs.mean()), float(logs.std(ddof=1)) / math.sqrt(len(names))
        half = stats.student(confidence, len(names) - 1) * error
        return math.exp(centre), math.exp(centre - half), math.exp(centre + half)
    draws = round(stats.RESAMPLES * max(1.0, 0.05 / (1 - confidence)))  # as many beyond each end as at 95 %
    low, high = stats.bootstrap_interval(ratios, 50, confidence, resamples=draws)
    return float(np.median(ratios)), low, high


def _medians(blocks: Sequence[Mapping[str, Block]], part: str) -> npt.NDArray[np.float64]:
    return np.array([float(np.median(block[part])) for block in blocks])


def _effect(
    a: str, b: str, ratios: npt.NDArray[np.float64], confidence: float, sittings: Sequence[int]
) -> dict[str, Any]:
    ratio, low, high = ratio_interval(ratios, confidence, sittings)
    if ratio < 1:  # the faster one first
        a, b = b, a
        ratio, low, high = ratio_interval(1 / ratios, confidence, sittings)
    shown = low > 1
    span = f"[{low:.3f}, {high:.3f}]"
    words = (
        f"{a} is {ratio:.3f} times as fast as {b} {span}"
        if shown
        else f"no difference shown between {a} and {b}: ratio {ratio:.3f} {span}"
    )
    found = {"first": a, "second": b, "ratio": ratio, "low": low, "high": high, "confidence": confidence}
    counts = {"sittings": len(set(sittings)) or 1, "rounds": len(ratios)}
    return {**found, **counts, "shown": shown, "words": words}


def _figures(samples: Block) -> dict[str, Any]:
    ms = samples / 1e6
    found: dict[str, Any] = {"n": len(ms), "min_ms": float(ms.min()), "max_ms": float(ms.max())}
    for p in (50, 90):
        if stats.percentile_supported(p, len(ms)) and len(ms) >= stats.LEAST_FOR_INTERVAL:
            low, high = stats.bootstrap_interval(ms, p)
            found |= {f"p{p}_ms": stats.percentile(ms, p), f"p{p}_low_ms": low, f"p{p}_high_ms": high}
    return found
