"""Verdicts of parity: what must pass, what must fail, and by which figure."""

import json

import numpy as np
import pytest

from edgekd import profiles
from edgekd.analysis import parity
from edgekd.errors import CheckFailed


@pytest.fixture
def logits():
    """200 images, 10 classes, range exactly 20, first and second at least 0.5 apart."""
    generator = np.random.Generator(np.random.PCG64(1))
    values = generator.uniform(-9, 8, (200, 10)).astype(np.float32)
    values[np.arange(200), np.arange(200) % 10] = generator.uniform(8.5, 9.5, 200)
    values[0, 0], values[1, 2] = 10, -10
    return values


@pytest.mark.parametrize("verdict", [parity.fp32_parity, parity.int8_parity])
def test_equal_logits_have_parity(logits, verdict):
    report = verdict(logits, logits.copy())
    assert report.passed
    assert (report.n, report.agreement_percent, report.max_abs_error) == (200, 100.0, 0.0)
    assert report.require("here") is report
    json.dumps(report.figures(), allow_nan=False)


@pytest.mark.parametrize(("factor", "passes"), [(0.9, True), (1.1, False)])
def test_fp32_bound_is_a_fraction_of_the_range(logits, factor, passes):
    other = logits.astype(np.float64)
    other[7, 3] += factor * parity.FP32_MAX_ERROR_TO_RANGE * 20
    report = parity.fp32_parity(logits, other)
    assert report.passed is passes
    assert report.error_to_range == pytest.approx(factor * parity.FP32_MAX_ERROR_TO_RANGE)


def test_fp32_forgives_a_turn_inside_the_margin_only(logits):
    bound = parity.FP32_MAX_ERROR_TO_RANGE * 20
    logits, other = logits.astype(np.float64), logits.astype(np.float64)
    logits[5, :2] = other[5, :2] = 9.8
    logits[5, 0] += 0.4 * bound
    other[5, 1] += 0.8 * bound
    inside = parity.fp32_parity(logits, other)
    assert inside.passed
    assert (inside.disagreements, inside.disagreements_outside_margin) == (1, 0)
    logits[5, 0] += 0.7 * bound  # the gap is now 1.1 bounds; each error stays below one
    other[5, 0] += 0.35 * bound
    outside = parity.fp32_parity(logits, other)
    assert outside.error_to_range < parity.FP32_MAX_ERROR_TO_RANGE
    assert outside.disagreements_outside_margin == 1
    assert not outside.passed


@pytest.mark.parametrize(("turned", "passes"), [(4, True), (5, False)])
def test_int8_agreement_bound(logits, turned, passes):
    other = logits.copy()
    rows = np.arange(10, 10 + turned)
    other[rows, (rows + 1) % 10] = other[rows, rows % 10] + 0.01  # 98 % of 200 images: 4 may turn
    report = parity.int8_parity(logits, other)
    assert report.sqnr_db > 0
    assert ("agreement" in " ".join(report.failures)) is not passes


@pytest.mark.parametrize(("db", "passes"), [(25.1, True), (24.9, False)])
def test_int8_sqnr_bound(logits, db, passes):
    other = logits.astype(np.float64) * (1 + 10 ** (-db / 20))  # same order of classes, known noise
    report = parity.int8_parity(logits, other)
    assert report.agreement_percent == 100
    assert report.sqnr_db == pytest.approx(db, abs=1e-3)
    assert report.passed is passes


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x[:, ::-1],
        lambda x: x[::-1],
        lambda x: np.zeros_like(x),
        lambda x: -x,
        lambda x: x.clip(0, None),
        lambda x: 0.5 * x,
        lambda x: x + 1,
    ],
    ids=["classes reversed", "images reversed", "zeros", "negated", "negatives cut", "halved", "shifted"],
)
def test_other_networks_have_no_parity(logits, wrong):
    assert not parity.fp32_parity(logits, wrong(logits)).passed
    assert not parity.int8_parity(logits, wrong(logits)).passed


@pytest.mark.parametrize("verdict", [parity.fp32_parity, parity.int8_parity])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_no_number_fails(logits, verdict, bad):
    for reference_is_bad in (True, False):
        broken = logits.copy()
        broken[3, 3] = bad
        with pytest.raises(CheckFailed, match="not finite"):
            verdict(*((broken, logits) if reference_is_bad else (logits, broken)))


@pytest.mark.parametrize("verdict", [parity.fp32_parity, parity.int8_parity])
def test_what_cannot_be_compared_fails(logits, verdict):
    for other in (logits[:-1], logits[:, :-1], logits[0]):
        with pytest.raises(CheckFailed):
            verdict(logits, other)
    with pytest.raises(CheckFailed):
        verdict(logits[:0], logits[:0])
    with pytest.raises(CheckFailed):
        verdict(np.ones_like(logits), np.ones_like(logits))


def test_failure_names_figures_and_bounds(logits):
    with pytest.raises(CheckFailed) as caught:
        parity.int8_parity(logits, -logits).require("quantized/u8s8")
    assert caught.value.exit_code == 3
    text = str(caught.value)
    for part in ("quantized/u8s8", "200 images", "agreement 0.00 %", "SQNR -6.02 dB", ">= 98 %", ">= 25 dB"):
        assert part in text


def test_shipped_targets_ask_for_the_same_bounds():
    targets = profiles.targets()
    assert targets["onnx"].bounds == {"max_error_to_range": parity.FP32_MAX_ERROR_TO_RANGE}
    assert targets["onnx-int8"].bounds == {
        "min_agreement_percent": parity.INT8_MIN_AGREEMENT_PERCENT,
        "min_sqnr_db": parity.INT8_MIN_SQNR_DB,
    }


def test_a_stricter_bound_is_asked_and_named(logits):
    other = logits + np.float32(0.5 * parity.FP32_MAX_ERROR_TO_RANGE * 20) * (np.arange(len(logits)) == 3)[:, None]
    assert parity.fp32_parity(logits, other).passed
    with pytest.raises(CheckFailed, match=r"max error <= 1e-06"):
        parity.fp32_parity(logits, other, max_error_to_range=1e-6).require("export/mine")
    assert parity.int8_parity(logits, other).passed
    with pytest.raises(CheckFailed, match=r"SQNR >= 150 dB"):
        parity.int8_parity(logits, other, min_sqnr_db=150).require("export/mine")
