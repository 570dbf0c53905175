"""Whether a network scores what its recipe says that it must."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.errors import CheckFailed

TOLERANCE_PERCENT = 0.005  # figures are quoted to 0.01 %: half of the last digit


def require_top1(expected: float | None, metrics: Mapping[str, Any], where: str = "teacher.expect_top1") -> None:
    """Compare top-1 on test with the recipe's figure; None expects nothing.

    Raises:
        CheckFailed: Another figure.
    """
    if expected is None or abs(metrics["top1_percent"] - expected) <= TOLERANCE_PERCENT:
        return
    raise CheckFailed(
        where,
        f"top-1 on test is {metrics['top1_percent']:.2f} % ({metrics['right_test']} of {metrics['n_test']})",
        f"{expected} %, within {TOLERANCE_PERCENT}",
        "another normalize, the right model variant, or the figure of this very test split",
    )
