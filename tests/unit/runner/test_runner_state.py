"""Verdicts on recorded machines: a tree of /proc and /sys files stands in for the device."""

import os
import platform
import resource
import subprocess
import sys

import pytest

from edgekd.runner import state

BOARD = {
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 62.50\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/loadavg": "0.10 0.05 0.01 1/200 4242\n",
    "proc/meminfo": "MemTotal:  8000000 kB\nMemFree: 100 kB\nMemAvailable:  4096000 kB\n",
    "proc/stat": "cpu  1000 0 500 90000 0 0 0 0 0 0\ncpu0 1000 0 500 90000 0 0 0 0 0 0\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1510400\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "1510400\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48500\n",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
}


@pytest.fixture
def board(tmp_path):
    """The recorded board's root."""
    for name, text in BOARD.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_recorded_board_is_read(board):
    machine, snapshot = state.machine(board), state.snapshot(board)
    assert machine["board"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert machine["cpu"] == "NVIDIA Jetson Orin Nano Developer Kit (implementer 0x41, part 0xd42)"
    assert machine["cores"] == snapshot["usable_cores"]
    assert snapshot["governors"] == ["performance"]
    assert snapshot["frequency_mhz"] == [1510.4, 1510.4]
    assert snapshot["temperature_c"] == {"cpu-thermal": 48.5}
    assert snapshot["load_average"] == [0.10, 0.05, 0.01]
    assert snapshot["memory_available_mib"] == 4000
    ticks = os.sysconf("SC_CLK_TCK")
    assert snapshot["all_cpu_s"] == {"busy": 1500 / ticks, "steal": 0}


def test_a_machine_that_tells_nothing_gives_none(tmp_path):
    snapshot = state.snapshot(tmp_path)
    for name in ("governors", "frequency_mhz", "turbo", "throttle_count", "load_average", "temperature_c", "all_cpu_s"):
        assert snapshot[name] is None
    verdict, reasons = state.verdict(snapshot, snapshot, [])
    assert verdict == "valid-unlocked"
    assert "cannot be read" in reasons[0]
    assert state.machine(tmp_path)["cpu"]


ARM = "processor : {}\nCPU implementer : 0x41\nCPU part : {}\n"


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor : 0\nmodel name : Some CPU @ 2.00GHz\nmodel : 85\n", "Some CPU @ 2.00GHz"),
        (ARM.format(0, "0xd0c"), "ARM (implementer 0x41, part 0xd0c)"),
        (ARM.format(0, "0xd05") + ARM.format(1, "0xd0b"), "ARM (implementer 0x41, part 0xd05, 0xd0b)"),
        (ARM.format(0, "0xd08") + "Hardware : BCM2835\nModel : Raspberry Pi 4\n", "BCM2835"),
        ("model name : ARMv7 Processor rev 3 (v7l)\n" + ARM.format(0, "0xd08"), "ARM (implementer 0x41, part 0xd08)"),
    ],
)
def test_processors_are_told_apart(tmp_path, cpuinfo, name):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    assert state.processor(tmp_path).startswith(name)


def test_a_mac_is_asked_for_its_chip(tmp_path, monkeypatch):
    def sysctl(argv, **options):
        assert argv[1:] == ["-n", "machdep.cpu.brand_string"]
        return subprocess.CompletedProcess(argv, 0, b"Apple M2\n")

    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(subprocess, "run", sysctl)
    assert state.processor(tmp_path) == "Apple M2"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs os.sched_getaffinity")
def test_cores_are_those_that_may_be_used(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert state.machine()["cores"] == 1


def test_a_calm_locked_board_is_valid(calm):
    assert state.verdict(*calm, []) == ("valid", [])
    others, stolen = state.other_load(*calm)
    assert others == pytest.approx(0.02)
    assert stolen == 0


def test_doubts_of_the_samples_unlock(calm):
    assert state.verdict(*calm, ["the median changed"]) == ("valid-unlocked", ["the median changed"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"governors": ["schedutil"]}, "is schedutil, not performance"),
        ({"governors": ["performance", "powersave"]}, "is performance, powersave, not performance"),
        ({"turbo": True}, "turbo is on"),
    ],
)
def test_free_clocks_are_valid_unlocked(calm, change, words):
    for snapshot in calm:
        snapshot.update(change)
    verdict, reasons = state.verdict(*calm, [])
    assert verdict == "valid-unlocked"
    assert any(words in reason for reason in reasons)


@pytest.mark.parametrize(
    ("counter", "words"), [("busy", "other programs used 0.52"), ("steal", "the hypervisor took 0.50")]
)
def test_others_at_work_are_named(calm, counter, words):
    calm[1]["all_cpu_s"][counter] += 5
    verdict, reasons = state.verdict(*calm, [])
    assert verdict == "valid-unlocked"
    assert any(words in reason for reason in reasons)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"throttle_count": 1}, "throttled"),
        ({"governors": ["powersave"]}, "governor changed from ['performance'] to ['powersave']"),
        ({"usable_cores": 1}, "usable cores changed"),
    ],
)
def test_throttling_and_mode_changes_void(calm, change, words):
    calm[0]["throttle_count"], calm[0]["usable_cores"] = 0, 2
    calm[1].update({"throttle_count": 0, "usable_cores": 2, **change})
    verdict, reasons = state.verdict(*calm, ["a doubt"])
    assert verdict == "void"
    assert any(words in reason for reason in reasons)


@pytest.mark.parametrize(
    ("files", "turbo"),
    [
        ({"intel_pstate/no_turbo": "0"}, True),
        ({"intel_pstate/no_turbo": "1"}, False),
        ({"cpufreq/boost": "1"}, True),
        ({"cpufreq/boost": "0"}, False),
    ],
)
def test_turbo_is_read_from_either_driver(board, files, turbo):
    for name, text in files.items():
        path = board / "sys/devices/system/cpu" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert state.snapshot(board)["turbo"] is turbo


def test_throttle_counts_are_summed(board):
    for core, count in ((0, 2), (1, 3)):
        folder = board / f"sys/devices/system/cpu/cpu{core}/thermal_throttle"
        folder.mkdir()
        (folder / "core_throttle_count").write_text(f"{count}\n")
    assert state.snapshot(board)["throttle_count"] == 5


def test_peak_memory_is_the_childs_own_not_its_parents():
    """A child of a parent with 300 MiB must not report them: ru_maxrss would."""
    ballast = bytearray(os.urandom(1024) * 300 * 1024)
    code = "from edgekd.runner import state; print(state.peak_memory_mib())"
    peak = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert len(ballast) / 2**20 == 300
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 > 300
    assert 5 < peak < 250
