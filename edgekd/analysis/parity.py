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
from edgekd.profiles import (
    FAKE_QUANT_MIN_AGREEMENT_PERCENT,
    FAKE_QUANT_MIN_SQNR_DB,
    FP16_MIN_AGREEMENT_PERCENT,
    FP16_MIN_SQNR_DB,
    FP32_MAX_ERROR_TO_RANGE,
    INT8_MIN_AGREEMENT_PERCENT,
    INT8_MIN_SQNR_DB,
)

Kind = Literal["fp32", "fp16", "int8", "fake_quant"]

Logits = npt.NDArray[np.floating[Any]]


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
        expected: The bounds in words.
        failures: One line a bound that does not hold; empty = parity.
    """

    kind: Kind
    n: int
    logit_range: float
    max_abs_error: float
    error_to_range: float
    sqnr_db: float
    agreement_percent: float
    disagreements: int
    disagreements_outside_margin: int
    expected: str
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
            raise CheckFailed(where, f"{self.kind}, {self.n} images: " + "; ".join(self.failures), self.expected, hint)
        return self


def fp32_parity(reference: Logits, other: Logits, max_error_to_range: float = FP32_MAX_ERROR_TO_RANGE) -> ParityReport:
    """Do two float networks give the same logits?

    Args:
        reference: [n, classes], of the source.
        other: [n, classes], of the converted network, same images in the same order.
        max_error_to_range: Largest difference of one logit / range of the reference's logits.

    Raises:
        CheckFailed: Nothing can be compared: other shapes, no image, a logit that is not finite, all logits equal.
    """
    found = _compare("fp32", reference, other, max_error_to_range)
    failures = []
    if not found["error_to_range"] <= max_error_to_range:
        failures.append(f"max error {found['max_abs_error']:.3g} is {found['error_to_range']:.2e} of the logit range")
    if found["disagreements_outside_margin"]:
        failures.append(f"{found['disagreements_outside_margin']} images have another top-1 beyond the margin")
    expected = f"max error <= {max_error_to_range:g} of the logit range, same top-1 wherever the margin exceeds it"
    return _report("fp32", found, expected, failures)


def int8_parity(
    reference: Logits,
    other: Logits,
    min_agreement_percent: float = INT8_MIN_AGREEMENT_PERCENT,
    min_sqnr_db: float = INT8_MIN_SQNR_DB,
) -> ParityReport:
    """Does a quantized network keep the answers of its float source?

    Args:
        reference: [n, classes], of the float graph.
        other: [n, classes], of the quantized graph, same images in the same order.
        min_agreement_percent: Least images with the same top-1.
        min_sqnr_db: Least signal to error.

    Raises:
        CheckFailed: Nothing can be compared: other shapes, no image, a logit that is not finite, all logits equal.
    """
    return _bounded("int8", reference, other, min_agreement_percent, min_sqnr_db)


def fp16_parity(
    reference: Logits,
    other: Logits,
    min_agreement_percent: float = FP16_MIN_AGREEMENT_PERCENT,
    min_sqnr_db: float = FP16_MIN_SQNR_DB,
) -> ParityReport:
    """Does a half-precision network keep the answers of its float source?

    Arguments and errors are those of `int8_parity`.
    """
    return _bounded("fp16", reference, other, min_agreement_percent, min_sqnr_db)


def fake_quant_parity(reference: Logits, other: Logits, agreement_percent: float | None = None) -> ParityReport:
    """Does a quantized network decide as the fake-quantized network does whose ranges it has?

    Args:
        reference: [n, classes], of the fake-quantized network.
        other: [n, classes], of the quantized graph, same images in the same order.
        agreement_percent: Images with the same top-1, where it is known better than from `reference` (rounded logits tie).

    Raises:
        CheckFailed: As `int8_parity`.
    """
    bounds = FAKE_QUANT_MIN_AGREEMENT_PERCENT, FAKE_QUANT_MIN_SQNR_DB
    return _bounded("fake_quant", reference, other, *bounds, agreement_percent)


def _bounded(
    kind: Kind,
    reference: Logits,
    other: Logits,
    min_agreement_percent: float,
    min_sqnr_db: float,
    agreement_percent: float | None = None,
) -> ParityReport:
    found = _compare(kind, reference, other, None)
    if agreement_percent is not None:
        found["agreement_percent"] = agreement_percent
    failures = []
    if not found["agreement_percent"] >= min_agreement_percent:
        failures.append(f"agreement {found['agreement_percent']:.2f} %")
    if not found["sqnr_db"] >= min_sqnr_db:
        failures.append(f"SQNR {found['sqnr_db']:.2f} dB")
    expected = f"agreement >= {min_agreement_percent:g} % and SQNR >= {min_sqnr_db:g} dB"
    return _report(kind, found, expected, failures)


def _compare(kind: str, reference: Logits, other: Logits, relative: float | None) -> dict[str, int | float]:
    """`agreement.compare` with the allowed error as a fraction of the reference's range."""
    try:
        bound = None if relative is None else relative * agreement.logit_range(reference)
        return agreement.compare(reference, other, bound)
    except ValueError as error:
        raise CheckFailed(f"{kind} parity", str(error), "logits that can be compared") from error


def _report(kind: Kind, found: dict[str, int | float], expected: str, failures: list[str]) -> ParityReport:
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
        expected=expected,
        failures=tuple(failures),
    )
