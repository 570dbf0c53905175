"""edgekd.stats against scipy, published counts, exact enumeration and simulated coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as oracle
from scipy.signal import lfilter
from tolerances import POISSON_LIMIT

from edgekd import stats

SAMPLES = np.arange(1.0, 1001.0)


@given(st.integers(1, 5000), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_scipy(n, share, confidence):
    right = round(share * n)
    expected = oracle.binomtest(right, n).proportion_ci(confidence, method="wilson")
    assert stats.wilson(right, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_none_and_all_ends_at_zero_and_one():
    assert stats.wilson(0, 10)[0] == 0.0
    assert stats.wilson(10, 10)[1] == 1.0


def test_wilson_of_200_images_at_85_percent_is_as_wide_as_the_field_says():
    low, high = stats.wilson(170, 200)
    assert (round(100 * low, 1), round(100 * high, 1)) == (79.4, 89.3)


@pytest.mark.parametrize(("right", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(right, n):
    with pytest.raises(ValueError, match="expected"):
        stats.wilson(right, n)


@pytest.mark.parametrize(("p", "n"), [(1, 1), (50, 1), (90, 64), (95, 130), (97, 219), (99, 662), (99.9, 6636)])
def test_required_counts_are_mlperfs(p, n):
    assert stats.required_count(p) == n
    assert stats.percentile_supported(p, n)
    assert not stats.percentile_supported(p, n - 1)


@given(st.floats(50.5, 99.5))
def test_required_count_is_the_least_by_scipys_binomial(p):
    n = stats.required_count(p)
    assert oracle.binom.cdf(1, n, 1 - p / 100) <= 0.01 * (1 + 1e-9)
    assert oracle.binom.cdf(1, n - 1, 1 - p / 100) > 0.01 * (1 - 1e-9)


def test_percentile_names_the_count_that_it_needs():
    with pytest.raises(ValueError, match="p99 needs 662 samples, found 500"):
        stats.percentile(SAMPLES[:500], 99)


def test_percentile_is_numpys():
    assert stats.percentile(SAMPLES[::-1], 90) == np.percentile(SAMPLES, 90)
    assert stats.percentile([3.0], 50) == 3.0


@pytest.mark.parametrize("p", [0, 100, -5, float("nan")])
def test_percentile_outside_0_to_100_is_refused(p):
    with pytest.raises(ValueError, match="expected a number in"):
        stats.percentile(SAMPLES, p)


def test_samples_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        stats.percentile([1.0, float("nan")], 50)


def test_bound_at_the_least_count_is_the_largest_sample():
    assert stats.percentile_bound(SAMPLES[:64], 90) == 64
    assert stats.percentile_bound(SAMPLES[:662], 99) == 662


def test_bound_of_p99_at_1000_samples_is_the_second_highest():
    """Two may lie above: P(Binomial(1000, 0.01) <= 2) = 0.3 %, <= 3 = 1.03 %; hence the 99.9th percentile of what was seen."""
    assert stats.percentile_bound(SAMPLES, 99) == 999


@pytest.mark.parametrize(("p", "n"), [(90, 64), (90, 300), (95, 500), (99, 1500)])
def test_bound_covers_the_true_percentile_with_99_percent(p, n):
    runs = np.random.default_rng(7).standard_exponential((1500, n))
    covered = np.mean([stats.percentile_bound(run, p) >= -np.log(1 - p / 100) for run in runs])
    assert covered >= 0.985


def test_interval_is_seeded_and_holds_the_median():
    samples = np.random.default_rng(1).lognormal(size=500)
    first, again = stats.bootstrap_interval(samples, seed=3), stats.bootstrap_interval(samples, seed=3)
    assert first == again
    assert first[0] <= np.median(samples) <= first[1]
    assert stats.bootstrap_interval(samples, seed=4) != first


def test_interval_of_equal_samples_is_the_sample():
    assert stats.bootstrap_interval(np.full(100, 2.5)) == (2.5, 2.5)


def test_interval_needs_ten_samples():
    with pytest.raises(ValueError, match="needs 10 samples, found 9"):
        stats.bootstrap_interval(SAMPLES[:9])


def test_interval_of_independent_samples_is_as_wide_as_the_order_statistics_say():
    """Exact: the median of n independent samples lies between the binomial(n, 1/2) quantiles' order statistics."""
    widths, exact = [], []
    for run in np.random.default_rng(2).standard_normal((60, 400)):
        low, high = stats.bootstrap_interval(run, resamples=500)
        ranks = oracle.binom.ppf([0.025, 0.975], 400, 0.5).astype(int)
        widths.append(high - low)
        exact.append(np.diff(np.sort(run)[ranks])[0])
    assert np.mean(widths) == pytest.approx(np.mean(exact), rel=0.15)


@pytest.mark.parametrize(
    ("coefficient", "n", "least"), [(0.0, 64, 0.91), (0.6, 300, 0.88), (0.6, 1000, 0.90), (0.9, 1000, 0.89)]
)
def test_interval_covers_the_median_of_dependent_samples_with_spikes(coefficient, n, least):
    """AR(1) with 2 % of spikes upwards; `least` is what 300 runs can show of a coverage of 95 % that short runs reach nearly."""
    generator = np.random.default_rng(11)
    runs = lfilter([1], [1, -coefficient], generator.standard_normal((300, n + 300)))[:, 300:]
    spikes = generator.random(runs.shape) < 0.02
    long = lfilter([1], [1, -coefficient], generator.standard_normal(2_000_000))
    truth = np.median(np.where(generator.random(long.shape) < 0.02, long + 50, long))
    hits = 0
    for seed, run in enumerate(np.where(spikes, runs + 50, runs)):
        low, high = stats.bootstrap_interval(run, seed=seed, resamples=200)
        hits += low <= truth <= high
    assert hits / 300 >= least


def test_blocks_grow_with_dependence():
    noise = np.random.default_rng(5).standard_normal(3000)
    dependent = lfilter([1], [1, -0.95], noise)
    assert stats.block_length(noise > 0) <= 20 < 60 < stats.block_length(dependent > 0)


def test_block_length_is_near_the_theory_of_ar1():
    """Politis and White: (2 g^2 / D n)^(1/3) with g = 2 phi / (1 - phi)^2, D = 4/3 ((1 + phi) / (1 - phi))^2 at unit variance."""
    phi, n = 0.7, 20_000
    g, density = 2 * phi / (1 - phi) ** 2, (1 + phi) / (1 - phi)
    theory = (2 * g**2 / (4 / 3 * density**2) * n) ** (1 / 3)
    runs = lfilter([1], [1, -phi], np.random.default_rng(9).standard_normal((20, n + 200)))[:, 200:]
    assert np.median([stats.block_length(run) for run in runs]) == pytest.approx(theory, rel=0.25)


def test_paired_drop_counts():
    a = np.array([1, 1, 1, 0, 0, 1], bool)
    b = np.array([1, 0, 0, 1, 0, 1], bool)
    found = stats.paired_drop(a, b)
    assert (found.lost, found.gained, found.n) == (2, 1, 6)
    assert found.drop == pytest.approx(1 / 6)
    assert found.low < found.drop < found.high
    other = stats.paired_drop(b, a)
    assert (other.low, other.high) == pytest.approx((-found.high, -found.low))


def test_paired_drop_is_bonett_and_prices_formula():
    """lost 12, gained 4 of 100: p12 = 13/102, p21 = 5/102."""
    a = np.array([True] * 84 + [True] * 12 + [False] * 4)
    b = np.array([True] * 84 + [False] * 12 + [True] * 4)
    centre = 8 / 102
    half = 1.959963985 * np.sqrt((18 / 102 - centre**2) / 102)
    found = stats.paired_drop(a, b)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-9)


@pytest.mark.parametrize(("lost", "gained"), [(0.02, 0.01), (0.1, 0.1), (0.005, 0.0)])
def test_paired_drop_covers_its_truth(lost, gained):
    draws = np.random.default_rng(4).multinomial(500, [lost, gained, 1 - lost - gained], size=1000)
    hits = 0
    for n_lost, n_gained, same in draws:
        a = np.repeat([True, False, True], [n_lost, n_gained, same])
        b = np.repeat([False, True, True], [n_lost, n_gained, same])
        found = stats.paired_drop(a, b)
        hits += found.low <= lost - gained <= found.high
    assert hits / 1000 >= 0.935


def test_paired_drop_is_narrower_than_two_unpaired_intervals():
    generator = np.random.default_rng(8)
    a = generator.random(10_000) < 0.92
    b = np.where(generator.random(10_000) < 0.01, ~a, a)
    found = stats.paired_drop(a, b)
    low, high = stats.wilson(int(a.sum()), 10_000)
    assert found.high - found.low < (high - low) / 2


@pytest.mark.parametrize(("a", "b"), [([], []), ([True], [True, False]), ([[True]], [[True]])])
def test_paired_drop_refuses_other_images(a, b):
    with pytest.raises(ValueError, match="same images"):
        stats.paired_drop(a, b)


@pytest.mark.parametrize("chance", [0.001, 0.05, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("k", [0, 1, 2, 7, 60, 1000, 20_000])
def test_poisson_limit_is_scipys_gamma_quantile(k, chance):
    assert stats.poisson_limit(k, chance) == pytest.approx(oracle.gamma.ppf(1 - chance, k + 1), rel=POISSON_LIMIT)


def test_drop_bound_of_nothing_and_of_losses_alone_is_exact():
    """With nothing gained the bound is Garwood's limit of a count: 3.0 and 7.75 images."""
    assert float(stats.drop_bound(0, 0, 10_000)) == pytest.approx(2.9957e-4, rel=1e-4)
    assert float(stats.drop_bound(3, 0, 10_000)) == pytest.approx(oracle.chi2.ppf(0.95, 8) / 2 / 10_000)


def test_drop_bound_orders_what_is_seen_and_takes_any_shape():
    lost, gained = np.meshgrid(np.arange(40), np.arange(30), indexing="ij")
    bounds = stats.drop_bound(lost, gained, 1000)
    assert bounds.shape == (40, 30)
    assert np.all(np.diff(bounds, axis=0) > 0) and np.all(np.diff(bounds, axis=1) < 0)
    assert np.all(bounds > (lost - gained) / 1000) and np.all(-stats.drop_bound(gained, lost, 1000) < bounds)


def test_drop_bound_of_many_images_is_walds():
    """1,000 and 900 of a million: the normal bound, which is a little smaller."""
    wald = (100 + 1.6449 * np.sqrt(1900)) / 1e6
    assert 1.0 < float(stats.drop_bound(1000, 900, 1_000_000)) / wald < 1.01


@pytest.mark.parametrize(("n", "differing"), [(1000, 0.003), (10_000, 0.01), (50_000, 0.03)])
def test_pass_chance_is_what_a_simulation_sees(n, differing):
    random = np.random.default_rng(3)
    lost = random.binomial(n, differing / 2, 20_000)
    bounds = stats.drop_bound(lost, random.binomial(n - lost, differing / (2 - differing)), n)
    for budget in np.quantile(bounds, [0.2, 0.5, 0.8]) + 0.3 / n:
        assert stats.pass_chance(float(budget), n, differing) == pytest.approx(np.mean(bounds <= budget), abs=0.02)


def test_pass_chance_goes_on_where_it_is_no_longer_summed():
    """1,990 and 2,010 differing images, 80 % passing."""
    chances = [stats.pass_chance(2.5 * np.sqrt(0.01 / n), n, 0.01) for n in (199_000, 201_000)]
    assert chances[1] == pytest.approx(chances[0], abs=0.005)
    assert stats.pass_chance(3.01 / 500, 500, 0.0) == 1 and stats.pass_chance(2.99 / 500, 500, 0.0) == pytest.approx(0)


def test_interval_of_a_mean_covers_it_although_readings_depend_on_each_other():
    """AR(1) with coefficient 0.6, as readings of a slow sensor: an interval that took them for independent would cover 67 %."""
    covered = 0
    for seed in range(200):
        noise = np.random.default_rng(seed).normal(size=200)
        values = np.zeros(200)
        for i in range(1, 200):
            values[i] = 0.6 * values[i - 1] + noise[i]
        low, high = stats.mean_interval(values + 7)
        covered += low <= 7 <= high
    assert covered >= 176  # 88 %: 91 seen of 100, two standard errors of 200


def test_interval_of_the_mean_of_a_constant_is_a_point_and_needs_ten():
    assert stats.mean_interval(np.full(12, 3.0)) == (3.0, 3.0)
    with pytest.raises(ValueError, match="10"):
        stats.mean_interval(np.arange(9))
