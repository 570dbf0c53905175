"""What runs of two methods with the same seeds allow to be said: paired differences over seeds, and their verdicts.

Percentage points (pp) of top-1 throughout. The seeds are the sample: an interval covers initialisation, data order and
augmentation, not another teacher and not other test images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekd.analysis.student import quantile, two_sided

LEVEL = 0.05  # chance of a false difference, over all comparisons with one reference
# Standard deviation of one run of the standard CIFAR protocol: 0.2 to 0.3 pp in the literature.
LITERATURE_SD = 0.25
ONE_SEED = "one seed says nothing about the spread between runs"


@dataclass(frozen=True)
class Difference:
    """Method minus reference over the seeds that both have.

    Attributes:
        values: One a seed, pp.
        mean: pp.
        sd: Sample standard deviation, pp; None with one seed.
        low: Lower end of the 95 % Student-t interval; None with one seed.
        high: Upper end.
        p: Two-sided, before any correction; None with one seed.
        error: Standard error that the interval rests on, pp; None with one seed.
    """

    values: tuple[float, ...]
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    p: float | None
    error: float | None

    @property
    def n(self) -> int:
        """Seeds."""
        return len(self.values)


def paired(method: npt.ArrayLike, reference: npt.ArrayLike, image: float) -> Difference:
    """Paired difference of two methods' top-1.

    Args:
        method: [n] percent, one a seed.
        reference: [n] percent, the same seeds in the same order.
        image: What one test image is worth, pp (100 / images), > 0. The spread is never taken as less: with few test
            images some seeds differ by exactly the same, and that proves nothing.

    Raises:
        ValueError: Empty, not the same length, or image <= 0.
    """
    a, b = np.asarray(method, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or not a.size or image <= 0:
        raise ValueError(f"shapes {a.shape} and {b.shape}, image {image}: expected [n] twice, n >= 1, and image > 0")
    values = tuple(float(value) for value in a - b)
    mean = float(np.mean(values))
    if a.size == 1:
        return Difference(values, mean, None, None, None, None, None)
    sd = float(np.std(values, ddof=1))
    error = max(sd, image) / math.sqrt(a.size)
    half = quantile(1 - LEVEL, a.size - 1) * error
    return Difference(values, mean, sd, mean - half, mean + half, two_sided(mean / error, a.size - 1), error)


def holm(chances: Sequence[float]) -> list[float]:
    """P values corrected for their number, in the order given.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    adjusted = [0.0] * len(chances)
    worst = 0.0
    for rank, i in enumerate(sorted(range(len(chances)), key=lambda i: chances[i])):
        worst = max(worst, min(1.0, (len(chances) - rank) * chances[i]))
        adjusted[i] = worst
    return adjusted


def verdict(found: Difference, corrected: float | None, reference: str, comparisons: int = 1) -> str:
    """What may be said of a difference, in words.

    Args:
        found: The difference.
        corrected: Its p value after `holm`; None with one seed.
        reference: Name of what it was compared with.
        comparisons: How many were corrected for.
    """
    if found.p is None or found.error is None or corrected is None:
        return ONE_SEED
    word = "better" if found.mean > 0 else "worse"
    if corrected < LEVEL:
        return f"{word} than {reference}"
    seen = f"could have seen {pp(visible(found.error * math.sqrt(found.n), found.n, comparisons))}"
    if found.p < LEVEL:
        return f"{word} than {reference} by itself, not among {comparisons} comparisons ({seen})"
    return f"no difference to {reference} shown ({seen})"


def visible(sd: float, n: int, comparisons: int = 1) -> float:
    """The smallest difference, pp, that n seeds show for certain: half the width of the interval.

    Args:
        sd: Standard deviation of paired differences, pp.
        n: Seeds, >= 2.
        comparisons: With one reference; each is then held to a stricter level.
    """
    return quantile(1 - LEVEL / max(comparisons, 1), n - 1) * sd / math.sqrt(n)


def pooled(found: Sequence[Difference]) -> tuple[float, int] | None:
    """(standard deviation of paired differences, degrees of freedom) over several comparisons; None where there is none."""
    spreads = [(difference.sd, difference.n - 1) for difference in found if difference.sd is not None]
    freedom = sum(n for _, n in spreads)
    if not freedom:
        return None
    return math.sqrt(sum(n * sd**2 for sd, n in spreads) / freedom), freedom


def pp(value: float) -> str:
    """Percentage points, two digits, in words; no difference is larger than 100."""
    return "no difference at all" if value >= 100 else f"{value:.2g} pp"
