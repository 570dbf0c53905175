"""Student's t for whole degrees of freedom, exact: what few runs allow to be said.

Source: M. Abramowitz, I. Stegun, Handbook of mathematical functions, 1964, 26.7.3 and 26.7.4 (finite sums, no series).
"""

from __future__ import annotations

import math
from functools import cache

STEPS = 200  # halvings of the bracket: more than a double has digits
FAR = 1e8  # the far end of the bracket is here or beyond


def two_sided(t: float, freedom: int) -> float:
    """P(|T| > |t|).

    Args:
        t: Any number, infinite ones included.
        freedom: Degrees of freedom, >= 1.

    Raises:
        ValueError: freedom < 1.
    """
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom: expected at least 1")
    if math.isinf(t):
        return 0.0
    angle = math.atan(abs(t) / math.sqrt(freedom))
    sine, squared = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2 == 1
    term, total = 1.0, 1.0  # of the sum in cos^2, from cos^0
    for k in range(2 if odd else 1, freedom - 1, 2):
        term *= squared * k / (k + 1)
        total += term
    if not odd:
        inside = sine * total
    elif freedom == 1:
        inside = 2 * angle / math.pi
    else:
        inside = 2 / math.pi * (angle + sine * math.cos(angle) * total)
    return min(1.0, max(0.0, 1 - inside))


@cache
def quantile(confidence: float, freedom: int) -> float:
    """The t with P(|T| <= t) = confidence: half of a two-sided interval's width in standard errors.

    Raises:
        ValueError: confidence outside (0, 1), or freedom < 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: expected a number in (0, 1)")
    low, high = 0.0, 1.0
    while two_sided(high, freedom) > 1 - confidence and high < FAR:
        high *= 2
    for _ in range(STEPS):
        middle = (low + high) / 2
        if two_sided(middle, freedom) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high
