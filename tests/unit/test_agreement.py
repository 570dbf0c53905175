"""edgekd.agreement against figures worked out by hand."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekd import agreement

REFERENCE = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 1.9], [5.0, 4.0, -5.0], [1.0, 0.0, 0.5]], np.float32)
OTHER = np.array([[3.0, 1.0, 0.0], [0.0, 1.9, 2.0], [5.0, 4.0, -5.0], [0.0, 1.0, 0.5]], np.float32)
LOGITS = hnp.arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(2, 5)), elements=st.floats(-50, 50, width=32))


def test_sqnr_by_hand():
    """Noise a tenth of the signal in every value: 20 dB."""
    signal = np.array([[1.0, -2.0], [4.0, 8.0]])
    assert agreement.sqnr_db(signal, 1.1 * signal) == pytest.approx(20.0)


def test_sqnr_of_equal_logits_is_infinite_and_of_silence_minus_infinite():
    assert agreement.sqnr_db(REFERENCE, REFERENCE) == math.inf
    assert agreement.sqnr_db(np.zeros((1, 2)), np.ones((1, 2))) == -math.inf


def test_margins_are_the_top_two_gaps():
    assert agreement.margins(REFERENCE) == pytest.approx([2.0, 0.1, 1.0, 0.5])


def test_agreement_error_and_range():
    assert agreement.top1_agreement(REFERENCE, OTHER) == 0.5
    assert agreement.max_abs_error(REFERENCE, OTHER) == 1.0
    assert agreement.logit_range(REFERENCE) == 10.0


@pytest.mark.parametrize(("bound", "count"), [(0.0, 2), (0.2, 1), (0.5, 0), (1.0, 0)])
def test_only_clear_disagreements_count(bound, count):
    """Images 1 and 3 disagree, with gaps 0.1 and 0.5; a gap equal to the bound is inside it."""
    assert agreement.disagreements_outside_margin(REFERENCE, OTHER, bound) == count


def test_compare_is_all_of_it_and_json():
    found = agreement.compare(REFERENCE, OTHER, bound=0.2)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["images"] == 4
    assert found["agreement_percent"] == 50.0
    assert found["error_to_range"] == pytest.approx(0.1)
    assert found["disagreements"] == 2
    assert found["disagreements_outside_margin"] == 1
    assert found["sqnr_db"] == pytest.approx(agreement.sqnr_db(REFERENCE, OTHER))


def test_compare_of_equal_logits_says_exact():
    found = agreement.compare(REFERENCE, REFERENCE.copy())
    assert (found["sqnr_db"], found["max_abs_error"], found["agreement_percent"]) == (agreement.EXACT_DB, 0.0, 100.0)


@given(LOGITS, st.integers(0, 2**32 - 1))
def test_an_answer_cannot_turn_where_the_gap_exceeds_twice_the_error(logits, seed):
    other = logits + np.random.default_rng(seed).uniform(-0.5, 0.5, logits.shape).astype(np.float32)
    twice = 2 * agreement.max_abs_error(logits, other)
    assert agreement.disagreements_outside_margin(logits, other, twice) == 0


@given(LOGITS)
def test_scale_does_not_change_sqnr_or_agreement(logits):
    other = logits + 1.0
    if np.any(logits):
        assert agreement.sqnr_db(4 * logits, 4 * other) == pytest.approx(agreement.sqnr_db(logits, other))
    assert agreement.top1_agreement(4 * logits, logits) == 1.0


@pytest.mark.parametrize(
    ("reference", "other", "match"),
    [
        (np.ones((2, 3)), np.ones((3, 2)), "the same"),
        (np.ones(3), np.ones(3), "the same"),
        (np.ones((0, 3)), np.ones((0, 3)), "the same"),
        (np.ones((2, 1)), np.ones((2, 1)), "the same"),
        (REFERENCE, np.full_like(REFERENCE, np.nan), "other: 12 of 12"),
        (np.full_like(REFERENCE, np.inf), REFERENCE, "reference: 12 of 12"),
        (np.ones((2, 3)), np.ones((2, 3)), "all reference logits are equal"),
    ],
)
def test_what_cannot_be_compared_is_refused(reference, other, match):
    with pytest.raises(ValueError, match=match):
        agreement.compare(reference, other)


def test_a_negative_bound_is_refused():
    with pytest.raises(ValueError, match="expected a number >= 0"):
        agreement.disagreements_outside_margin(REFERENCE, OTHER, -0.1)
