"""How far two sets of logits for the same images are apart: SQNR, top-1 agreement, margins, largest error.

A leaf: NumPy and the standard library, Python 3.8 syntax, nothing of edgekd. The program on the device carries it.
Logits are [N, C], N >= 1, C >= 2, finite; `reference` is what `other` is measured against.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Dict, Optional, Tuple, Union

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

EXACT_DB = 200.0  # what `compare` says of equal logits: JSON has no infinity, and float32 itself ends near 150 dB


def sqnr_db(reference: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Signal to quantization noise ratio in dB: 10 log10(sum reference^2 / sum (reference - other)^2).

    Returns:
        dB; infinite for equal logits, minus infinite for an all-zero reference that the other differs from.

    Raises:
        ValueError: Shapes differ, or a value is not finite.
    """
    a, b = _pair(reference, other)
    signal, noise = float(np.sum(a**2)), float(np.sum((a - b) ** 2))
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def top1_agreement(reference: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Share of images, in [0, 1], with the same top-1 answer (the first class wins a tie).

    Raises:
        ValueError: Shapes differ, or a value is not finite.
    """
    a, b = _pair(reference, other)
    return float(np.mean(a.argmax(axis=1) == b.argmax(axis=1)))


def margins(logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """[N]: the gap between the two highest logits of each image, >= 0.

    Raises:
        ValueError: Not [N, C] with C >= 2, or a value is not finite.
    """
    a, _ = _pair(logits, logits)
    top = np.partition(a, -2, axis=1)[:, -2:]
    return np.asarray(top[:, 1] - top[:, 0])


def max_abs_error(reference: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Largest |reference - other| of any logit.

    Raises:
        ValueError: Shapes differ, or a value is not finite.
    """
    a, b = _pair(reference, other)
    return float(np.max(np.abs(a - b)))


def logit_range(logits: npt.ArrayLike) -> float:
    """Highest minus lowest logit over all images: the scale that errors are put against."""
    a, _ = _pair(logits, logits)
    return float(np.ptp(a))


def disagreements_outside_margin(reference: npt.ArrayLike, other: npt.ArrayLike, bound: float) -> int:
    """Images whose answers differ although the reference's top-two gap exceeds the bound (in logits, >= 0).

    Raises:
        ValueError: Shapes differ, a value is not finite, or the bound is negative.
    """
    if not bound >= 0:
        raise ValueError(f"bound {bound}: expected a number >= 0")
    a, b = _pair(reference, other)
    differ = a.argmax(axis=1) != b.argmax(axis=1)
    return int(np.sum(differ & (margins(a) > bound)))


def compare(
    reference: npt.ArrayLike, other: npt.ArrayLike, bound: Optional[float] = None
) -> Dict[str, Union[int, float]]:
    """All of it at once, as plain numbers that JSON can hold.

    Args:
        reference: [N, C].
        other: [N, C], the same images in the same order.
        bound: Error that is allowed, in logits; None: the largest error seen.

    Returns:
        images, agreement_percent, sqnr_db (EXACT_DB when nothing differs, at least -EXACT_DB), max_abs_error, logit_range,
        error_to_range (largest error / range of the reference), disagreements, disagreements_outside_margin.

    Raises:
        ValueError: Shapes differ, a value is not finite, or all reference logits are equal.
    """
    a, b = _pair(reference, other)
    width, error = logit_range(a), max_abs_error(a, b)
    if width == 0:
        raise ValueError("all reference logits are equal: there is no range to put an error against")
    return {
        "images": len(a),
        "agreement_percent": 100 * top1_agreement(a, b),
        "sqnr_db": min(EXACT_DB, max(-EXACT_DB, sqnr_db(a, b))),
        "max_abs_error": error,
        "logit_range": width,
        "error_to_range": error / width,
        "disagreements": int(np.sum(a.argmax(axis=1) != b.argmax(axis=1))),
        "disagreements_outside_margin": disagreements_outside_margin(a, b, error if bound is None else bound),
    }


def _pair(reference: npt.ArrayLike, other: npt.ArrayLike) -> Tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    a, b = np.asarray(reference, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 2 or a.shape[0] < 1 or a.shape[1] < 2:
        raise ValueError(f"logits of shapes {a.shape} and {b.shape}: expected the same [N, C], N >= 1, C >= 2")
    for name, values in (("reference", a), ("other", b)):
        bad = int(np.sum(~np.isfinite(values)))
        if bad:
            raise ValueError(f"{name}: {bad} of {values.size} logits are not finite")
    return a, b
