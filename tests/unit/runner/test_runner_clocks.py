"""A Jetson's mode, clocks and alarms before, during and after: which of them void a measurement."""

from types import SimpleNamespace

import jetson
import pytest

from edgekd.runner import clocks, heat, state

CPU0 = "sys/devices/system/cpu/cpu0/cpufreq"
CPU1 = "sys/devices/system/cpu/cpu1/cpufreq"


@pytest.fixture
def board(tmp_path):
    return jetson.write(tmp_path, jetson.files())


@pytest.fixture
def calm(calm, board):
    """The two snapshots, and a look between them."""
    return *calm, [state.look(board)]


def judged(calm, doubts=(), **more):
    before, after, during = calm
    return state.verdict(before, after, list(doubts), during, **more)


def test_a_locked_board_is_read_and_valid(board, calm):
    before = calm[0]
    assert before["power_mode"] == "0 15W"
    assert before["limits_mhz"] == {
        "cpu0": (1510.4, 1510.4),
        "cpu1": (1510.4, 1510.4),
        "17000000.gpu": (624.75, 624.75),
        "emc": (2133.0, 2133.0),
    }
    assert before["now_mhz"]["17000000.gpu"] == 624.75
    assert before["cooling"] == {"cpu-throttle-alert": 0, "devfreq-17000000.gpu": 0}  # the fan takes no speed away
    assert before["overcurrent"] == {"oc1": 5, "oc2": 5, "oc3": 5}
    assert before["swap_used_mib"] == pytest.approx(100000 / 1024)
    assert state.locked(before) is True
    assert judged(calm) == ("valid", [])


def test_free_clocks_are_named_one_by_one(tmp_path):
    board = jetson.write(tmp_path, jetson.files(locked=False))
    before = state.snapshot(board)
    verdict, reasons = state.verdict(before, before, [])
    assert verdict == "valid-unlocked"
    assert state.locked(before) is False
    told = "\n".join(reasons)
    assert "governor is schedutil" in told
    assert "17000000.gpu may move between 306 and 625 MHz" in told
    assert "emc may move" in told


def test_a_governor_of_full_speed_locks_nothing_beside_the_cores(tmp_path):
    tree = jetson.files(locked=False)
    tree |= {f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor": "performance" for core in (0, 1)}
    before = state.snapshot(jetson.write(tmp_path, tree))
    assert state.locked(before) is False
    assert not any("governor" in reason for reason in state.verdict(before, before, [])[1])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"sys/class/thermal/cooling_device1/cur_state": "1"}, "cpu-throttle-alert is at 1"),
        ({"sys/class/thermal/cooling_device2/cur_state": "3"}, "devfreq-17000000.gpu is at 3, not 0"),
        ({f"{jetson.HWMON}/hwmon3/oc3_event_cnt": "6"}, "supply alarm oc3"),
        ({"var/lib/nvpmodel/status": "pmode:0001"}, "power mode changed from 0 to 1"),
        ({f"{CPU0}/scaling_max_freq": "1113600"}, "limits of clock cpu0 changed"),
        ({f"{jetson.GPU}/min_freq": "306000000"}, "limits of clock 17000000.gpu changed"),
        (
            {f"{CPU0}/scaling_cur_freq": "1036800", f"{CPU1}/scaling_cur_freq": "729600"},
            "cpu0 ran at 1037 MHz, locked at 1510",
        ),
        ({f"{CPU0}/scaling_governor": "powersave"}, "the frequency governor changed"),
    ],
)
def test_what_is_seen_meanwhile_voids_although_it_is_over_in_the_end(board, calm, changed, words):
    jetson.write(board, changed)
    during = [state.look(board)]
    verdict, reasons = state.verdict(calm[0], calm[1], ["a doubt"], during)
    assert verdict == "void"
    assert any(words in reason for reason in reasons), reasons
    assert len(reasons) == len(set(reasons))


def test_a_locked_core_at_rest_does_not_void(board, calm):
    jetson.write(board, {f"{CPU1}/scaling_cur_freq": "400000"})
    assert state.verdict(calm[0], calm[1], [], [state.look(board)]) == ("valid", [])


@pytest.mark.parametrize("name", ["cooling_device0/cur_state", "thermal_zone0/temp"])
def test_a_fan_and_warmth_do_not_void(board, calm, name):
    jetson.write(board, {f"sys/class/thermal/{name}": "60000"})
    assert state.verdict(calm[0], calm[1], [], [state.look(board)]) == ("valid", [])


def test_an_alarm_that_slows_nothing_is_not_counted(board):
    jetson.write(board, {f"{jetson.HWMON}/hwmon3/oc3_throt_en": "0"})
    assert set(state.look(board)["overcurrent"]) == {"oc1", "oc2"}


def test_a_clock_held_down_from_the_start_is_a_reason(board):
    jetson.write(board, {"sys/class/thermal/cooling_device2/cur_state": "4"})
    before = state.snapshot(board)
    assert state.verdict(before, before, []) == (
        "valid-unlocked",
        ["devfreq-17000000.gpu holds the clock down (state 4)"],
    )


def test_an_alert_from_the_start_voids(board):
    jetson.write(board, {"sys/class/thermal/cooling_device1/cur_state": "1"})
    before = state.snapshot(board)
    assert state.verdict(before, before, [])[0] == "void"


def test_swapping_is_named(calm):
    calm[1]["swap_used_mib"] += 100
    assert judged(calm) == ("valid-unlocked", ["100 MiB were swapped out meanwhile"])


def test_load_that_was_measured_elsewhere_is_taken(calm):
    calm[1]["all_cpu_s"]["busy"] += 50
    assert "other programs" in judged(calm)[1][0]
    assert judged(calm, others=(0.0, 0.0)) == ("valid", [])


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"etc/edgekd-emulated": ""}, "/etc/edgekd-emulated"),
        ({"proc/cpuinfo": "model name : QEMU Virtual CPU version 2.5+\n"}, "QEMU"),
    ],
)
def test_an_emulated_device_says_so_first(board, tree, words):
    jetson.write(board, tree)
    before = state.snapshot(board)
    assert words in before["emulated"]
    verdict, reasons = state.verdict(before, before, ["a doubt"])
    assert (verdict, reasons[0]) == ("valid-unlocked", "emulated: correctness only")


def test_a_virtual_machine_on_the_real_processor_is_not_emulated(tmp_path):
    tree = {"proc/cpuinfo": "model name : QEMU Virtual CPU version 2.5+\n", state.CLOCKS: "kvm-clock tsc acpi_pm \n"}
    assert state.emulated(jetson.write(tmp_path, tree)) == ""


def test_what_a_program_of_ours_used_is_not_the_load_of_others(board):
    import subprocess
    import sys

    before = state.counters(board)["own_cpu_s"]
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.2: pass"], check=True)
    assert state.counters(board)["own_cpu_s"] - before > 0.15


def test_a_real_device_is_not_called_emulated(board):
    assert state.emulated(board) == ""


@pytest.mark.parametrize(
    ("said", "mode"),
    [
        ("NV Fan Mode:quiet\nNV Power Mode: 15W\n0\n", "0 15W"),
        ("NV Power Mode: MAXN_SUPER\n2\n", "2 MAXN_SUPER"),
        ("NV Power Mode: 15W\n", "15W"),
        ("NVPM ERROR: no permission\n", None),
    ],
)
def test_what_nvpmodel_prints_is_understood(said, mode):
    assert clocks.said_mode(said) == mode


def test_a_mode_without_a_name_keeps_its_number(tmp_path):
    jetson.write(tmp_path, {"var/lib/nvpmodel/status": "pmode:0010"})
    assert clocks.power_mode(tmp_path) == "10"
    assert clocks.power_mode(tmp_path / "elsewhere", ask=True) is None


def test_the_program_of_a_recorded_machine_is_never_run(tmp_path):
    program = jetson.write(tmp_path, {"usr/sbin/nvpmodel": "#!/bin/sh\necho 'NV Power Mode: WRONG'\necho 9\n"})
    (program / "usr/sbin/nvpmodel").chmod(0o755)
    assert clocks.power_mode(tmp_path, ask=True) is None


def counted(clock, own, busy, steal=0.0):
    return {"clock_s": clock, "own_cpu_s": own, "all_cpu_s": {"busy": busy, "steal": steal}}


def test_load_of_steps_leaves_out_what_others_did_between_them():
    steps = [(counted(0, 0, 0), counted(1, 1, 1.5)), (counted(100, 1, 150), counted(101, 2, 151.1, 0.2))]
    assert state.load_of_steps(steps) == pytest.approx(((0.5 + 0.1) / 2, 0.2 / 2))
    assert state.load_of_steps([]) == (None, None)
    silent = {"clock_s": 0, "own_cpu_s": 0, "all_cpu_s": None}
    assert state.load_of_steps([*steps, (silent, silent)]) == (None, None)


def test_counters_are_those_of_a_snapshot(board):
    assert set(state.counters(board)) == {"clock_s", "own_cpu_s", "all_cpu_s"}
    assert state.counters(board)["all_cpu_s"] == state.snapshot(board)["all_cpu_s"]


def test_record_gives_spans_of_what_was_seen(board, calm):
    jetson.write(board, {"sys/class/thermal/thermal_zone0/temp": "51000"})
    found = state.record(calm[0], calm[1], [*calm[2], state.look(board)])
    assert found["during"]["temperature_c"]["cpu-thermal"] == [48.5, 51.0]
    assert found["during"]["looks"] == 2
    assert found["clocks_locked"] is True


def test_a_watch_looks_while_the_block_runs(board):
    import time

    with state.watch(board, seconds=0.005) as seen:
        until = time.monotonic() + 5
        while len(seen) < 3 and time.monotonic() < until:
            time.sleep(0.001)
    assert len(seen) >= 3
    assert seen[0]["mode"] == "0"


def nvml():
    """Stands in for nvidia-ml-py: names of NVIDIA's reference, figures made up."""
    return SimpleNamespace(
        NVMLError=OSError,
        NVML_CLOCK_SM=1,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 0x40 | 0x1,
        nvmlDeviceGetName=lambda handle: b"A card",
        nvmlSystemGetDriverVersion=lambda: "550.1",
        nvmlDeviceGetClockInfo=lambda handle, which: 1500,
        nvmlDeviceGetTemperature=lambda handle, which: 80,
    )


def test_a_desktop_gpu_that_slows_itself_voids(tmp_path, monkeypatch):
    monkeypatch.setattr(heat.importlib, "import_module", lambda name: nvml())
    assert heat.nvidia(tmp_path) is None
    jetson.write(tmp_path, {"proc/driver/nvidia/version": "NVRM version"})
    found = heat.nvidia(tmp_path)
    assert found["slowed"] == ["hardware thermal slowdown"]  # an idle clock is no slowdown
    assert found["gpu"] == "A card"
    snapshot = {**state.snapshot(tmp_path), "nvidia": found}
    assert state.verdict(snapshot, snapshot, []) == ("void", ["the GPU throttled: hardware thermal slowdown"])


def test_a_power_cap_that_was_there_at_rest_is_a_reason_and_a_new_one_voids(board):
    calm, capped = ({**state.snapshot(board), "nvidia": {"slowed": words}} for words in ([], ["power cap"]))
    assert state.verdict(capped, capped, []) == ("valid-unlocked", ["the GPU is held down by its power cap"])
    assert state.verdict(calm, capped, []) == ("void", ["the GPU throttled: power cap"])


def test_a_gpu_without_the_package_says_what_to_install(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    jetson.write(tmp_path, {"proc/driver/nvidia/version": "NVRM version"})
    monkeypatch.setattr(heat.importlib, "import_module", missing)
    assert "pip install nvidia-ml-py" in heat.nvidia(tmp_path)["missing"]
