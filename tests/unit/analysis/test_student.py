"""Student's t against SciPy."""

import math

import pytest
from scipy import stats
from tolerances import STUDENT_T

from edgekd.analysis.student import quantile, two_sided


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 29, 30, 999])
def test_chances_and_quantiles_are_exact(freedom):
    for t in (0.0, 0.01, 0.3, 1.0, 2.5, 4.3, 12.7):
        assert two_sided(t, freedom) == two_sided(-t, freedom)
        assert two_sided(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), abs=STUDENT_T)
    for confidence in (0.1, 0.5, 0.95, 0.99, 1 - 0.05 / 36):
        expected = stats.t.ppf(0.5 + confidence / 2, freedom)
        assert quantile(confidence, freedom) == pytest.approx(expected, rel=STUDENT_T / (1 - confidence))


def test_the_ends():
    assert two_sided(math.inf, 2) == 0.0
    assert two_sided(0.0, 7) == 1.0


@pytest.mark.parametrize(("confidence", "freedom"), [(0.0, 2), (1.0, 2), (0.95, 0), (math.nan, 2)])
def test_what_makes_no_sense_is_refused(confidence, freedom):
    with pytest.raises(ValueError, match="expected"):
        quantile(confidence, freedom)
