"""Is the converted network still the same network? Verdicts over two sets of logits for the same images.

A float graph must repeat its source but for rounding; an int8 graph must keep its answers and stay clear of the noise
that a wrong scale, a missed activation or a swapped channel makes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgekd import agreement
from edgekd.errors import CheckFailed

Logits = npt.NDArray[np.floating[Any]]

# Two float32 runtimes add the same products in another order: 1e-7 to 1e-6 of the range is seen on CIFAR networks;
# a wrong padding, a missing ReLU or stale BatchNorm statistics give 1e-2 and more.
FP32_MAX_ERROR_TO_RANGE = 1.0e-4
# A sound u8s8 graph of such networks gives 30 to 44 dB and 99 % or more; ranges broken by one outlier, onnxruntime's
# "distribution" calibration (-2 dB) or saturated ReLUs fall far below both bounds.
INT8_MIN_AGREEMENT_PERCENT = 98.0
INT8_MIN_SQNR_DB = 25.0

EXPECTED = {
    "fp32": f"max error <= {FP32_MAX_ERROR_TO_RANGE:g} of the logit range, same top-1 wherever the margin exceeds it",
    "int8": f"agreement >= {INT8_MIN_AGREEMENT_PERCENT:g} % and SQNR >= {INT8_MIN_SQNR_DB:g} dB",
}


@dataclass(frozen=True)
class ParityReport:
    """How far one network's logits are from another's, and whether that is near enough.

    Attributes:
        kind: Which bounds were asked.
        n: Images compared.
        logit_range: Largest minus smallest logit of the reference.
        max_abs_error: Largest difference of one logit.
        error_to_range: The same as a fraction of `logit_range`.
        sqnr_db: Signal to error, 200 dB when there is no error.
        agreement_percent: Images with the same top-1.
        disagreements: Images with another top-1.
        disagreements_outside_margin: Those of them whose two largest reference logits lie further apart than the error
            that is allowed (fp32) or seen (int8): no rounding turned them.
        failures: One line a bound that does not hold; empty = parity.
    """

    kind: Literal["fp32", "int8"]
    n: int
    logit_range: float
    max_abs_error: float
    error_to_range: float
    sqnr_db: float
    agreement_percent: float
    disagreements: int
    disagreements_outside_margin: int
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Every bound holds."""
        return not self.failures

    @property
    def text(self) -> str:
        """One line for people."""
        verdict = "parity" if self.passed else "NO PARITY: " + "; ".join(self.failures)
        return (
            f"{self.kind}, {self.n} images: {self.agreement_percent:.2f} % same top-1, SQNR {self.sqnr_db:.1f} dB, "
            f"max error {self.max_abs_error:.3g} = {self.error_to_range:.2e} of the logit range: {verdict}"
        )

    def figures(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {**asdict(self), "failures": list(self.failures), "passed": self.passed}

    def require(self, where: str, hint: str = "") -> ParityReport:
        """Itself.

        Raises:
            CheckFailed: A bound does not hold; names the figures.
        """
        if not self.passed:
            raise CheckFailed(
                where, f"{self.kind}, {self.n} images: " + "; ".join(self.failures), EXPECTED[self.kind], hint
            )
        return self


def fp32_parity(reference: Logits, other: Logits) -> ParityReport:
    """Do two float networks give the same logits?

    Args:
        reference: [n, classes], of the source.
        other: [n, classes], of the converted network, same images in the same order.

    Raises:
        CheckFailed: Nothing can be compared: other shapes, no image, a logit that is not finite, all logits equal.
    """
    found = _compare("fp32", reference, other, FP32_MAX_ERROR_TO_RANGE)
    failures = []
    if not found["error_to_range"] <= FP32_MAX_ERROR_TO_RANGE:
        failures.append(f"max error {found['max_abs_error']:.3g} is {found['error_to_range']:.2e} of the logit range")
    if found["disagreements_outside_margin"]:
        failures.append(f"{found['disagreements_outside_margin']} images have another top-1 beyond the margin")
    return _report("fp32", found, failures)


def int8_parity(reference: Logits, other: Logits) -> ParityReport:
    """Does a quantized network keep the answers of its float source?

    Args:
        reference: [n, classes], of the float graph.
        other: [n, classes], of the quantized graph, same images in the same order.

    Raises:
        CheckFailed: Nothing can be compared: other shapes, no image, a logit that is not finite, all logits equal.
    """
    found = _compare("int8", reference, other, None)
    failures = []
    if not found["agreement_percent"] >= INT8_MIN_AGREEMENT_PERCENT:
        failures.append(f"agreement {found['agreement_percent']:.2f} %")
    if not found["sqnr_db"] >= INT8_MIN_SQNR_DB:
        failures.append(f"SQNR {found['sqnr_db']:.2f} dB")
    return _report("int8", found, failures)


def _compare(kind: str, reference: Logits, other: Logits, relative: float | None) -> dict[str, int | float]:
    """`agreement.compare` with the allowed error as a fraction of the reference's range."""
    try:
        bound = None if relative is None else relative * agreement.logit_range(reference)
        return agreement.compare(reference, other, bound)
    except ValueError as error:
        raise CheckFailed(f"{kind} parity", str(error), "logits that can be compared") from error


def _report(kind: Literal["fp32", "int8"], found: dict[str, int | float], failures: list[str]) -> ParityReport:
    return ParityReport(
        kind=kind,
        n=int(found["images"]),
        logit_range=found["logit_range"],
        max_abs_error=found["max_abs_error"],
        error_to_range=found["error_to_range"],
        sqnr_db=found["sqnr_db"],
        agreement_percent=found["agreement_percent"],
        disagreements=int(found["disagreements"]),
        disagreements_outside_margin=int(found["disagreements_outside_margin"]),
        failures=tuple(failures),
    )
