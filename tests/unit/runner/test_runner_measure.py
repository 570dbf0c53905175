"""The stop watch on a clock of our own: what is counted, when it stops, what it says. Preprocessing and postprocessing take 1 ms."""

import gc

import numpy as np
import pytest

from edgekd import stats
from edgekd.runner import measure
from edgekd.runner.measure import NS, Profile


class Machine:
    """A clock that stands still but while a query is answered: `ms(i)` milliseconds for the i-th, 1 ms preprocessing."""

    def __init__(self, ms):
        self.now, self.asked, self.ms, self.shown = 0, 0, ms, []

    def clock(self):
        return self.now

    def normalise(self, image):
        self.now += 1_000_000
        self.shown.append(image)
        return image

    def infer(self, batch):
        assert gc.isenabled() is self.collecting
        self.now += int(self.ms(self.asked) * 1e6)
        self.asked += 1

    collecting = True

    def conclude(self, logits):
        self.now += 1_000_000

    def query(self):
        return measure.make_query(self.normalise, self.infer, self.conclude, self.clock)


def test_stages_are_timed_apart_and_add_up():
    machine = Machine(lambda i: 4 + i)
    machine.collecting = False
    samples = measure.single_stream(machine.query(), lambda i: i, Profile(3, 0, 0), measure.Recorder())
    assert samples.preprocess.tolist() == samples.postprocess.tolist() == [1_000_000] * 3
    assert samples.inference.tolist() == [4_000_000, 5_000_000, 6_000_000]
    assert samples.end_to_end.tolist() == [6_000_000, 7_000_000, 8_000_000]
    assert samples.parts == {}
    assert machine.shown == [0, 1, 2]


@pytest.mark.parametrize(("ms", "count"), [(998, 64), (8, 1000)])
def test_both_count_and_seconds_must_be_reached(ms, count):
    machine = Machine(lambda i: ms)
    machine.collecting = False
    samples = measure.single_stream(machine.query(), lambda i: i, measure.PROFILES["quick"], measure.Recorder())
    assert len(samples.end_to_end) == count


def test_profiles_are_those_of_the_documentation():
    assert (measure.PROFILES["smoke"].seconds, measure.PROFILES["quick"].seconds) == (3, 10)
    assert measure.PROFILES["quick"].queries == stats.required_count(90) == 64
    assert (measure.PROFILES["mlperf"].seconds, measure.PROFILES["mlperf"].queries) == (600, 64)
    assert measure.LABELS == {"mlperf": "MLPerf-style, unverified"}


def test_parts_of_an_inference_are_kept_query_by_query():
    machine = Machine(lambda i: 4 + i)
    apart = measure.Recorder(("copy", "compute"), lambda: [machine.asked, 10 * machine.asked])
    query = machine.query()
    for i in range(3):
        apart.add(query(i))
    assert len(apart) == 3
    assert apart.seconds == pytest.approx(0.021)
    found = apart.samples(1)
    assert {name: values.tolist() for name, values in found.parts.items()} == {"copy": [2, 3], "compute": [20, 30]}
    assert found.inference.tolist() == [5_000_000, 6_000_000]
    assert list(found.latency) == ["end_to_end", "preprocess", "inference", "postprocess"]


def test_the_garbage_collector_is_put_back_even_after_an_error():
    def broken(image):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        measure.single_stream(broken, lambda i: i, Profile(1, 0, 0), measure.Recorder())
    assert gc.isenabled()


def test_warm_up_waits_until_it_gets_no_faster():
    machine = Machine(lambda i: max(10.0, 100 - i))
    warm = measure.warm_up(machine.query(), lambda i: i)
    assert warm.steady
    assert 88 <= warm.queries <= 120
    assert warm.seconds == pytest.approx(machine.now / NS)


def test_warm_up_of_a_steady_machine_lasts_for_the_clocks_to_rise():
    machine = Machine(lambda i: 1.0)
    warm = measure.warm_up(machine.query(), lambda i: i)
    assert warm.steady
    assert measure.WARM_LEAST_S <= warm.seconds < measure.WARM_LEAST_S + 0.02


def test_warm_up_that_never_settles_ends_and_says_so():
    machine = Machine(lambda i: 2000 * 0.97**i)
    warm = measure.warm_up(machine.query(), lambda i: i)
    assert not warm.steady
    assert warm.seconds >= measure.WARM_MOST_S
    samples = measure.Samples(*np.ones((4, 4), np.int64))
    assert "still getting faster" in measure.doubts(warm, samples)[0]


def series(ms):
    values = np.asarray(ms, np.float64) * 1e6
    none = np.zeros(len(values), np.int64)
    return measure.Samples(none, values.astype(np.int64), none, values.astype(np.int64))


@pytest.mark.parametrize(("last", "words"), [(1.2, ["changed by +20 %"]), (0.8, ["changed by -20 %"]), (1.05, [])])
def test_drift_is_named(last, words):
    found = measure.doubts(measure.WarmUp(16, 1, True), series(np.repeat([1.0, 1.0, 1.0, last], 50)))
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))


def test_summary_gives_only_percentiles_that_the_count_supports():
    found = measure.summary(np.arange(1, 501, dtype=np.int64) * 1_000_000)
    assert found["p50_ms"] == 250.5
    assert found["p90_ms"] == pytest.approx(450.1)
    assert found["p90_bound_ms"] >= found["p90_ms"]
    assert (
        found["p50_block"] == stats.median_block(np.arange(1, 501)) >= 8
    )  # 500^(1/3), and more for a series that drifts
    assert "p99_ms" not in found
    assert found["unsupported"] == {"p99": 662}
    few = measure.summary(np.array([5, 6, 7], np.int64) * 1_000_000)
    assert few["p50_ms"] == 6
    assert few["unsupported"] == {"p90": 64, "p95": 130, "p99": 662}
    assert "p50_low_ms" not in few


def test_offline_counts_images_of_the_timed_batches_only():
    machine = Machine(lambda i: 99)

    def answer(batch):
        machine.infer(machine.normalise(batch))

    found = measure.offline(answer, [np.zeros((8, 1)), np.ones((8, 1))], 1.0, machine.clock)
    assert found == {"batch": 8, "images": 80, "seconds": 1.0, "throughput_per_s": 80.0}
    assert [int(batch[0, 0]) for batch in machine.shown[:4]] == [0, 0, 1, 0]


@pytest.mark.parametrize("n", [50, 3000])
def test_blocks_of_a_long_series_come_from_the_same_autocovariances(n, monkeypatch):
    """Millions of samples have thousands of lags: a Fourier transform gives what the sums give."""
    series = np.convolve(np.random.default_rng(n).normal(size=n + 20), np.ones(20), "valid")[:n]
    series -= series.mean()
    summed, block = stats._covariance(series, 40), stats.median_block(series)
    monkeypatch.setattr(stats, "LONG", 10)
    np.testing.assert_allclose(stats._covariance(series, 40), summed, atol=1e-12 * n)
    assert stats.median_block(series) == block
