"""The parity ladder: verdicts over what each form of one network answers, each against the one that it was made from.

Nothing is run here: logits come in, rungs go out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgekd import agreement, stats
from edgekd.analysis.parity import Logits, ParityReport, fake_quant_parity, fp16_parity, fp32_parity, int8_parity
from edgekd.errors import CheckFailed
from edgekd.profiles import FAKE_QUANT_MIN_AGREEMENT_PERCENT, FP32_MAX_ERROR_TO_RANGE, QAT_PARITY

State = Literal["origin", "ok", "fails", "not run"]
INPUT, LABELS = "input", "labels"
SAMPLES = 0.99  # of samples of a file that turns as many answers as it may
HALF_STEP = 2.0**-11  # largest rounding error of float16, relative


@dataclass(frozen=True)
class Rung:
    """One form of the network, and how far it is from the one before it and from the origin.

    Attributes:
        name: `labels`, `input`, or the step.
        state: The verdict.
        against: The rung that it was made from; "" at the origin.
        note: How its answers were had, or why there are none.
        n: Images.
        top1_percent: Against the labels, of the same images.
        before: Figures against that rung.
        origin: Figures against the origin.
        expected: The bounds in words.
        failures: One line a bound that does not hold.
        blame: The rung that is at fault, where it is another one: `input` or `labels`.
        tensors: Figures of each tensor, where they were compared.
        tensors_of: The rung whose tensors they were compared with.
        first: The first of them at fault.
    """

    name: str
    state: State
    against: str = ""
    note: str = ""
    n: int = 0
    top1_percent: float | None = None
    before: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    expected: str = ""
    failures: tuple[str, ...] = ()
    blame: str = ""
    tensors: tuple[Mapping[str, Any], ...] = ()
    tensors_of: str = ""
    first: Mapping[str, Any] | None = None

    @property
    def attributed(self) -> str:
        """The rung at fault."""
        return self.blame or self.name

    def json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "attributed": self.attributed if self.state == "fails" else None}


@dataclass(frozen=True)
class Answers:
    """What one form answers.

    Attributes:
        name: Of its rung.
        logits: [n, classes].
        scheme: `none`, `fp16`, `fake_quant` (of a network trained with quantization) or an int8 scheme.
        bounds: Of its export target, by name; edgekd's own where there is none.
        stored: They were kept in float16, not computed now.
        note: How they were had.
        trained: Of a network that was trained rounded, or of a file with its ranges.
    """

    name: str
    logits: Logits
    scheme: str = "none"
    bounds: Mapping[str, float] = field(default_factory=dict)
    stored: bool = False
    note: str = ""
    trained: bool = False


def origin_rung(answers: Answers, labels: npt.NDArray[np.int64]) -> Rung:
    """The rung that nothing stands before."""
    return Rung(answers.name, "origin", note=answers.note, n=len(labels), top1_percent=top1(answers.logits, labels))


def rung(found: Answers, before: Answers, origin: Answers, labels: npt.NDArray[np.int64]) -> Rung:
    """The verdict on one form.

    Args:
        found: Its answers.
        before: Of the form that it was made from; decides.
        origin: Of the first form; must hold, too, where `before` is held.
        labels: [n] the true classes.
    """
    n, share = len(labels), top1(found.logits, labels)
    try:
        report = verdict(found, before)
        # a target's bounds are on what was exported, against its source
        total = verdict(found if found.scheme == "none" else replace(found, bounds={}), origin)
        first, whole = figures(before.logits, found.logits), figures(origin.logits, found.logits)
    except CheckFailed as error:
        failed = (error.found,)
        return Rung(found.name, "fails", before.name, found.note, n, share, expected=error.expected, failures=failed)
    failures = report.failures
    if report.passed and before.name != origin.name:
        failures = tuple(f"against {origin.name}: {line}" for line in total.failures)
    state: State = "fails" if failures else "ok"
    return Rung(found.name, state, before.name, found.note, n, share, first, whole, report.expected, failures)


def verdict(found: Answers, before: Answers) -> ParityReport:
    """The verdict that the stages give of this pair.

    Raises:
        CheckFailed: They cannot be compared.
    """
    schemes = {found.scheme, before.scheme}
    if schemes == {"none"}:
        slack = HALF_STEP * float(np.abs(before.logits).max()) if found.stored else 0.0
        bound = found.bounds.get("max_error_to_range", FP32_MAX_ERROR_TO_RANGE)
        return fp32_parity(
            before.logits,
            found.logits,
            bound + slack / (agreement.logit_range(before.logits) or 1.0) if slack else bound,
        )
    if found.trained and before.scheme == "none":
        return int8_parity(before.logits, found.logits, **QAT_PARITY)
    if before.scheme == "fake_quant" and found.scheme != "none":
        turned = int(np.sum(before.logits.argmax(axis=1) != found.logits.argmax(axis=1)))
        forgiven = 100.0 if turned <= _by_chance(len(found.logits)) else None
        return fake_quant_parity(before.logits, found.logits, forgiven)
    if schemes <= {"none", "fp16"}:
        return fp16_parity(before.logits, found.logits, **found.bounds)
    return int8_parity(before.logits, found.logits, **found.bounds)


def _by_chance(n: int) -> int:
    """Answers that a file which turns no more than it may will have turned, at most, in nearly all samples of n images."""
    mean = n * (1 - FAKE_QUANT_MIN_AGREEMENT_PERCENT / 100)
    return next(k for k in count() if stats.poisson_limit(k, SAMPLES) >= mean)


def figures(reference: Logits, other: Logits) -> dict[str, Any]:
    """How far two sets of logits [n, classes] are apart: `agreement.compare`, and `kl_mean`."""
    return {**agreement.compare(reference, other), "kl_mean": kl_mean(reference, other)}


def kl_mean(reference: Logits, other: Logits) -> float:
    """Mean over images of KL(softmax(reference) || softmax(other)), temperature 1, in nats, >= 0."""
    p, q = _log_softmax(reference), _log_softmax(other)
    return max(0.0, float(np.mean(np.sum(np.exp(p) * (p - q), axis=1))))


def top1(logits: Logits, labels: npt.NDArray[np.int64]) -> float:
    """Images answered right, percent."""
    return 100.0 * float(np.mean(logits.argmax(axis=1) == labels))


def first_failing(rungs: Sequence[Rung]) -> Rung | None:
    """The rung to mend first."""
    return next((rung for rung in rungs if rung.state == "fails"), None)


def _log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
