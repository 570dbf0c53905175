"""What paired runs allow to be said: nothing of what is not there (A/A), and of what is there enough."""

import numpy as np
import pytest
from scipy import stats

from edgekd.analysis.compare import LEVEL, ONE_SEED, holm, paired, pooled, verdict, visible

IMAGES = 10_000
IMAGE = 100 / IMAGES
SEED_SD = 0.2  # pp, of what a run's expected accuracy varies by with its seed
RESAMPLES = 1000  # a right share of 95 % then shows as 93 to 97 %


def runs(generator, n, mean):
    """Test top-1 of n runs, percent: each has its own accuracy and is seen on a finite test set."""
    shares = np.clip(generator.normal(mean, SEED_SD, n) / 100, 0, 1)
    return 100 * generator.binomial(IMAGES, shares) / IMAGES


def shown(generator, n, difference):
    """Whether one comparison of two methods finds them different, and in which direction."""
    found = paired(runs(generator, n, 92 + difference), runs(generator, n, 92), IMAGE)
    said = verdict(found, found.p, "kd")
    return said == "better than kd", said == "worse than kd", said.startswith("no difference to kd shown (could have")


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_one_method_under_two_names_shows_no_difference(n):
    generator = np.random.default_rng(n)
    found = [shown(generator, n, 0.0) for _ in range(RESAMPLES)]
    assert all(sum(words) == 1 for words in found)
    assert sum(none for *_, none in found) >= 0.9 * RESAMPLES


def test_one_method_under_many_names_shows_no_difference_either():
    """Twelve names against one reference: any of them called different is a false alarm of the whole table."""
    generator = np.random.default_rng(0)
    false_alarms = 0
    for _ in range(RESAMPLES):
        reference = runs(generator, 5, 92)
        found = [paired(runs(generator, 5, 92), reference, IMAGE) for _ in range(12)]
        false_alarms += any(p < LEVEL for p in holm([difference.p for difference in found]))
    assert false_alarms <= 0.1 * RESAMPLES


def test_half_a_point_is_found():
    """+0.5 pp with 10 seeds whose runs vary by 0.34 pp (seed 0.2, 10,000 images 0.27): the paired sd is 0.48 pp."""
    generator = np.random.default_rng(1)
    found = [shown(generator, 10, 0.5) for _ in range(RESAMPLES)]
    assert sum(better for better, *_ in found) >= 0.75 * RESAMPLES
    assert not any(worse for _, worse, _ in found)


def test_the_interval_is_that_of_a_paired_t_test():
    generator = np.random.default_rng(2)
    ours, theirs = runs(generator, 5, 92.4), runs(generator, 5, 92)
    found, expected = paired(ours, theirs, IMAGE), stats.ttest_rel(ours, theirs)
    interval = expected.confidence_interval(0.95)
    assert found.n == 5
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(expected.pvalue)
    assert found.mean == pytest.approx(np.mean(ours - theirs))
    assert found.sd == pytest.approx(np.std(ours - theirs, ddof=1))
    assert found.high - found.mean == pytest.approx(visible(found.sd, 5))


def test_one_seed_says_nothing():
    found = paired([93.0], [90.0], IMAGE)
    assert (found.mean, found.sd, found.low, found.high, found.p) == (3.0, None, None, None, None)
    assert verdict(found, None, "kd") == ONE_SEED


def test_equal_differences_on_few_images_prove_nothing():
    """Two seeds that differ by exactly one image of 50 have no spread; the interval is not of width 0 for that."""
    found = paired([92.0, 94.0], [90.0, 92.0], 2.0)
    assert found.sd == 0
    assert found.low < 0 < found.high
    assert verdict(found, found.p, "kd").startswith("no difference")
    same = paired([92.0, 94.0], [92.0, 94.0], 2.0)
    assert same.p == 1.0


def test_a_difference_that_many_comparisons_explain_is_said_to_be_one():
    found = paired([92.5, 92.8, 92.6], [92.0, 92.0, 92.1], IMAGE)
    assert found.p < LEVEL
    assert verdict(found, found.p, "kd") == "better than kd"
    said = verdict(found, 12 * found.p, "kd", 12)
    assert said.startswith("better than kd by itself, not among 12 comparisons (could have seen ")


@pytest.mark.parametrize("chances", [[0.01, 0.04, 0.03, 0.005], [0.5], [0.02, 0.02], []])
def test_holm(chances):
    """The definition, written out: the i-th smallest times (m - i), never below the one before it."""
    ranked, m = np.sort(chances), len(chances)
    expected = [max(min(1.0, (m - j) * ranked[j]) for j in range(int(np.searchsorted(ranked, p)) + 1)) for p in chances]
    assert holm(chances) == pytest.approx(expected)


def test_spread_of_several_comparisons():
    found = [paired([1.0, 2.0, 4.0], [0.0] * 3, IMAGE), paired([5.0, 3.0], [0.0] * 2, IMAGE)]
    sd, freedom = pooled(found)
    assert freedom == 3
    assert sd == pytest.approx(np.sqrt((2 * np.var([1, 2, 4], ddof=1) + np.var([5, 3], ddof=1)) / 3))
    assert pooled([paired([1.0], [0.0], IMAGE)]) is None


@pytest.mark.parametrize(("ours", "theirs", "image"), [([], [], 1), ([1.0], [1.0, 2.0], 1), ([1.0], [1.0], 0)])
def test_what_cannot_be_paired_is_refused(ours, theirs, image):
    with pytest.raises(ValueError, match="expected"):
        paired(ours, theirs, image)
