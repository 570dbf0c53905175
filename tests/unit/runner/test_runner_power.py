"""Energy of one inference from sensors whose power is known."""

import json
import math
import time
from types import SimpleNamespace

import jetson
import numpy as np
import pytest

from edgekd.runner import power
from edgekd.runner.failure import RunnerError
from edgekd.runner.power import NEEDED_UPDATES, Meter
from edgekd.runner.probes import base

ORIN = {"use": "ina3221", "rails": {"VDD_IN": "whole module", "VDD_SOC": "rest"}, "total": "VDD_IN"}


@pytest.fixture
def board(tmp_path):
    return jetson.write(tmp_path, jetson.files())


def readings(watts, seconds, rate=20.0, rails=("VDD_IN",)):
    """`rate` readings a second of a power in W by time."""
    moments = np.arange(0, seconds, 1 / rate)
    return [(float(t), dict.fromkeys(rails, 1000 * watts(t))) for t in moments]


def metered(board, rest, run, queries, seconds, asked=ORIN):
    """A meter that was given its readings instead of taking them."""
    meter = Meter(asked, board)
    meter._rest = rest
    return meter.finish(run, queries, (0.0, seconds))


def both(watts, seconds):
    return readings(watts, seconds, rails=("VDD_IN", "VDD_SOC"))


def test_every_probe_is_found_and_asks_for_nothing_of_the_machine_when_named():
    assert set(base.names()) >= {"ina3221", "nvml", "rapl"}
    with pytest.raises(RunnerError) as error:
        base.open_probe({"use": "wattmeter"}, power.ROOT)
    assert error.value.exit_code == 5
    assert "ina3221" in error.value.expected


def test_rails_are_volts_times_amperes(board):
    probe = base.open_probe(ORIN, board)
    assert probe.read() == {"VDD_IN": 5000.0, "VDD_SOC": 1250.0}
    every = base.open_probe({"use": "ina3221"}, board)
    assert set(every.rails) == set(jetson.RAILS)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"use": "ina3221", "rails": {"VDD_GPU": ""}}, "VDD_GPU"),
        ({"use": "ina3221", "total": "VIN"}, "VIN"),
        ({"use": "ina3221", "rail": {}}, "power: rail"),
    ],
)
def test_a_rail_that_is_not_there_is_refused_in_words_and_stops_nothing(board, asked, words):
    meter = Meter(asked, board)
    assert words in meter.result["refused"]
    meter.rest(0)
    with meter.window() as seen:
        pass
    assert "energy_mj" not in meter.finish(seen, 10, (0.0, 1.0))


def test_a_machine_without_the_sensor_is_refused(tmp_path):
    assert "no hwmon folder named ina3221" in Meter(ORIN, tmp_path).result["refused"]


def test_a_known_wave_gives_its_joules(board):
    """5 W at rest; 9 W and a wave of 2 W above it: 4 J a second, over 1,000 queries in 10 s: 40 mJ each."""
    run = both(lambda t: 9 + 2 * math.sin(2 * math.pi * t * 1.7), 10)
    found = metered(board, both(lambda t: 5.0, 3), run, 1000, 10.0)
    assert found["energy_mj"] == pytest.approx(40, rel=0.01)
    assert found["energy_low_mj"] < 40 < found["energy_high_mj"]
    assert found["idle_mw"] == pytest.approx(5000)
    assert found["total"] == "rail VDD_IN"
    assert found["refused"] is None
    assert found["rails"]["VDD_SOC"]["mean_mw"] == pytest.approx(9000, rel=0.02)


def test_without_a_total_rail_the_sum_is_said_to_be_one(board):
    asked = {"use": "ina3221", "rails": {"VDD_IN": "a", "VDD_SOC": "b"}}
    run = both(lambda t: 6 + 0.1 * math.sin(37 * t), 10)
    found = metered(board, both(lambda t: 5.0, 3), run, 100, 10.0, asked)
    assert found["total"] == "sum of 2 rails"
    assert found["energy_mj"] == pytest.approx(200, rel=0.01)


@pytest.mark.parametrize(("updates", "refused"), [(NEEDED_UPDATES - 1, True), (NEEDED_UPDATES, False)])
def test_updates_are_counted_not_readings(board, updates, refused):
    """A sensor that renews its figure `updates` times while it is read 200 times."""
    run = both(lambda t: 7 + int(t * updates / 10 + 1e-9) % 2, 10)
    found = metered(board, both(lambda t: 5.0, 3), run, 100, 10.0)
    assert found["n_updates"] == updates
    assert (found["refused"] is not None) is refused
    assert ("energy_mj" in found) is not refused
    if refused:
        assert str(NEEDED_UPDATES) in found["refused"]
        assert f"{updates} updates" in found["refused"]


def test_a_stuck_sensor_is_refused(board):
    assert "1 updates" in metered(board, both(lambda t: 5.0, 3), both(lambda t: 7.0, 10), 100, 10.0)["refused"]


def test_more_noise_gives_a_wider_interval(board):
    generator = np.random.default_rng(0)
    widths = []
    for spread in (0.1, 1.0):
        run = both(lambda t, spread=spread: 9 + spread * generator.normal(), 10)
        found = metered(board, both(lambda t: 5.0, 3), run, 1000, 10.0)
        widths.append(found["energy_high_mj"] - found["energy_low_mj"])
    assert widths[1] > 5 * widths[0] > 0


def test_a_window_is_really_read(board, monkeypatch):
    monkeypatch.setattr(power, "READ_EVERY_S", 0.002)
    meter = Meter(ORIN, board)
    meter.rest(0.05)
    with meter.window() as seen:
        time.sleep(0.02)  # what is read before the first query is not counted
        begun = time.perf_counter()
        for i in range(60):
            jetson.write(board, {f"{jetson.HWMON}/hwmon1/curr1_input": str(1500 + i)})
            time.sleep(0.004)
        ended = time.perf_counter()
    found = meter.finish(seen, 60, (begun, ended))
    assert found["refused"] is None, found
    assert found["idle_mw"] == 5000
    assert 7400 < found["mean_mw"] < 7900
    assert found["seconds"] == ended - begun
    assert found["energy_mj"] == pytest.approx((found["mean_mw"] - 5000) * found["seconds"] / 60)


def test_a_sensor_that_goes_away_refuses_the_figure_and_not_the_run(board, monkeypatch):
    monkeypatch.setattr(power, "READ_EVERY_S", 0.002)
    meter = Meter(ORIN, board)
    meter.rest(0.02)
    with meter.window() as seen:
        (board / jetson.HWMON / "hwmon1/in1_input").unlink()
        time.sleep(0.05)
    assert "cannot be read any more" in meter.finish(seen, 10, (0.0, 1.0))["refused"]


def rapl(root, joules, folder="intel-rapl:0"):
    tree = {"name": "package-0", "energy_uj": str(int(joules * 1e6)), "max_energy_range_uj": str(int(1000e6))}
    jetson.write(root, {f"sys/class/powercap/{folder}/{name}": text for name, text in tree.items()})


def test_a_counter_of_energy_is_exact_and_survives_its_own_restart(tmp_path):
    rapl(tmp_path, 990.0)
    rapl(tmp_path, 1.0, "intel-rapl:0:0")  # a part of the package: not counted twice
    probe = base.open_probe({"use": "rapl"}, tmp_path)
    seen = []
    for joules in (990.0, 995.0, 2.0):
        rapl(tmp_path, joules)
        seen.append(probe.read()["package-0"])
    assert np.diff(seen).tolist() == pytest.approx([5000.0, 7000.0])
    assert list(probe.rails) == ["package-0"]


def test_energy_between_two_readings_of_a_counter(tmp_path):
    rapl(tmp_path, 1.0)
    meter = Meter({"use": "rapl"}, tmp_path)
    meter._rest = [(float(t), {"package-0": 2000.0 * t}) for t in range(4)]
    found = meter.finish([(float(t), {"package-0": 5000.0 * t}) for t in range(11)], 100, (0.0, 10.0))
    assert found["energy_mj"] == pytest.approx((5000 - 2000) * 10 / 100)


def test_a_counter_of_the_whole_board_is_no_second_package(tmp_path):
    rapl(tmp_path, 1.0)
    rapl(tmp_path, 3.0, "intel-rapl:1")
    jetson.write(tmp_path, {"sys/class/powercap/intel-rapl:1/name": "psys"})
    assert list(base.open_probe({"use": "rapl"}, tmp_path).rails) == ["package-0"]
    whole = base.open_probe({"use": "rapl", "total": "psys", "rails": {"package-0": "cores"}}, tmp_path)
    assert set(whole.read()) == {"package-0", "psys"}


def test_rails_that_the_whole_module_feeds_are_not_added_to_it(board):
    meter = Meter({"use": "ina3221"}, board)
    assert meter.result["total"] == "rail VDD_IN"


def test_rest_that_was_seen_to_change_only_twice_is_known_no_better_than_its_span(board):
    """1 W or 3 W for a second each at rest: three updates say little of the mean."""
    rest = both(lambda t: 3.0 if 1 <= t < 2 else 1.0, 3)
    run = both(lambda t: 9 + 0.1 * math.sin(37 * t), 10)
    found = metered(board, rest, run, 1000, 10.0)
    assert found["energy_low_mj"] < (found["mean_mw"] - 3000) / 100 * 1.001
    assert found["energy_high_mj"] > (found["mean_mw"] - 1000) / 100 * 0.999


def test_the_interval_lies_about_the_mean_over_time(board):
    """Readings crowd where power is low: their plain mean is not the mean over time."""
    moments = np.cumsum(np.tile([0.01, 0.01, 0.01, 0.17], 50))
    watts = np.tile([5.0, 5.1, 5.2, 9.0], 50)
    run = [(float(t), dict.fromkeys(("VDD_IN", "VDD_SOC"), 1000 * w)) for t, w in zip(moments, watts, strict=True)]
    found = metered(board, both(lambda t: 5.0, 3), run, 1000, 10.0)
    assert found["energy_low_mj"] <= found["energy_mj"] <= found["energy_high_mj"]


def test_counters_of_root_are_refused_with_the_reason(tmp_path):
    jetson.write(tmp_path, {"sys/class/powercap/intel-rapl:0/name": "package-0"})
    assert "root alone" in Meter({"use": "rapl"}, tmp_path).result["refused"]


def test_a_card_is_read_by_nvml(tmp_path, monkeypatch):
    from edgekd.runner.probes import nvml

    module = SimpleNamespace(
        NVMLError=OSError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetPowerUsage=lambda card: 61234,
    )
    monkeypatch.setattr(nvml.importlib, "import_module", lambda name: module)
    probe = nvml.Sensor({}, "", tmp_path)
    assert probe.read() == {"card": 61234.0}
    assert probe.total == "card"


def test_without_nvidia_ml_py_the_line_is_said(tmp_path, monkeypatch):
    from edgekd.runner.probes import nvml

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(nvml.importlib, "import_module", missing)
    with pytest.raises(RunnerError) as error:
        nvml.Sensor({}, "", tmp_path)
    assert "nvidia-ml-py" in error.value.hint


READINGS = 20_000


class Wave(base.Probe):
    """5 W for the first readings, which are those at rest, then about 8 W."""

    def __init__(self, rails, total, root):
        self.rails, self.total, self.count = {"all": "everything"}, "all", 0

    def read(self):
        self.count += 1
        return {"all": 5000.0 if self.count <= READINGS else 8000.0 + self.count % 7}


class AtOnce:
    """Stands in for the sampler: ten seconds of readings, half a millisecond apart, without a thread."""

    def __init__(self, read, seconds):
        now = time.perf_counter()
        self.values = [(now + 0.0005 * i, read()[1]) for i in range(READINGS)]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def result_of(bundle, out, probes):
    from edgekd.runner.__main__ import main

    assert main(["bench", str(bundle.seal(probes=probes)), str(out)]) == 0
    return json.loads((out / "result.json").read_text())


def test_a_run_of_the_runner_carries_its_energy(bundle, brief, monkeypatch, tmp_path):
    monkeypatch.setattr(power, "open_probe", lambda asked, root: Wave({}, "", root))
    monkeypatch.setattr(power, "Sampler", AtOnce)
    monkeypatch.setattr(power, "time", SimpleNamespace(sleep=lambda seconds: None, perf_counter=time.perf_counter))
    result = result_of(bundle, tmp_path / "out", {"power": {"use": "wave"}})
    found = result["power"]
    assert (found["probe"], found["total"], found["refused"]) == ("wave", "rail all", None)
    assert found["queries"] == result["latency"]["end_to_end"]["n"]
    assert found["n_updates"] < READINGS  # those of the window alone
    assert found["seconds"] >= result["latency"]["end_to_end"]["mean_ms"] * found["queries"] / 1000
    assert found["energy_mj"] == pytest.approx(3003 * found["seconds"] / found["queries"], rel=0.001)


def test_a_run_without_the_sensor_goes_on_and_says_why(bundle, brief, tmp_path):
    result = result_of(bundle, tmp_path / "out", {"power": {"use": "ina3221", "rails": {"NOT_HERE": "x"}}})
    assert "NOT_HERE" in result["power"]["refused"]
    assert result["latency"]["end_to_end"]["n"] >= 64


def test_a_run_without_a_probe_says_nothing_of_power(bundle, brief, tmp_path):
    assert not result_of(bundle, tmp_path / "out", {})["power"]
