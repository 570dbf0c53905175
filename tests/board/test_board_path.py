"""The whole way of `bench --device` over real SSH onto real aarch64 binaries: answers are held to x86's, times to nothing."""

import itertools
import json
import time

import numpy as np
import pytest

from tests.board.board import ALIAS, words
from tests.board.striking import until
from tests.board.world import DEVICE, Running, around
from tests.tolerances import INT8_OTHER_PROCESSOR_TO_RANGE, OTHER_ANSWERS

pytestmark = pytest.mark.device
BENCH = ("bench", "--set", "bench.runtime=onnxruntime", "--set", "bench.profile=smoke")
SWITCH_S = 0.7  # not the beat of the runner's looks at the state, of which there are some in 3 s
HALF_TO_RANGE = 1e-3  # float16, in which answers are kept, has 11 bits
EMULATED = "emulated: correctness only"


@pytest.fixture(scope="module")
def world(board, chain_source, tmp_path_factory):
    with around(board, tmp_path_factory.mktemp("path") / "world", chain_source) as made:
        (made.folder_of_boards / f"{DEVICE}.yaml").unlink()
        yield made


@pytest.fixture(scope="module")
def added(world):
    """The board, added as a user adds it."""
    done = world.edgekd("devices", "add", DEVICE, "--host", ALIAS, "--profile", "jetson-orin-nano")
    assert done.code == 0, done.err
    return world


@pytest.fixture(scope="module")
def benched(added):
    """Both files measured on the board found by its family, then the same on this machine."""
    there = added.edgekd(*BENCH, "--device", "jetson")
    assert there.code == 0, there.err
    here = added.edgekd(*BENCH, "--device", "cpu")
    assert here.code == 0, here.err
    return there


def answers(world, step):
    with np.load(world.newest(step) / "predictions.npz") as file:
        return {name: file[name] for name in file}


def result(world, step):
    return json.loads((world.newest(step) / "result.json").read_text())


def test_without_a_board_the_line_to_type(world):
    done = world.edgekd(*BENCH, "--device", "jetson")
    assert done.code == 5
    assert "edgekd devices add NAME --host user@board --profile jetson-orin-nano" in done.err


def test_doctor_sees_the_board(added):
    done = added.edgekd("doctor", "--device", DEVICE, "--json")
    assert done.code in (0, 5), done.err
    text = done.out + done.err
    for fact in ("NVIDIA Jetson Orin Nano Developer Kit", "aarch64", "3.11.2", "1.27.0", "15W"):
        assert fact in text


@pytest.mark.parametrize(("target", "bound"), [("onnx", HALF_TO_RANGE), ("onnx-int8", INT8_OTHER_PROCESSOR_TO_RANGE)])
def test_answers_are_those_of_x86(benched, added, target, bound):
    there, here = (answers(added, f"bench/{target}@{device}") for device in (DEVICE, "cpu"))
    np.testing.assert_array_equal(there["row"], here["row"])
    logits = here["logits"].astype(float)
    assert np.abs(there["logits"].astype(float) - logits).max() <= bound * np.ptp(logits)
    assert np.mean(there["answer"] != here["answer"]) <= (0 if target == "onnx" else OTHER_ANSWERS)


@pytest.mark.parametrize("target", ["onnx", "onnx-int8"])
def test_the_result_says_where_it_ran_and_that_its_times_mean_nothing(benched, added, target):
    found = result(added, f"bench/{target}@{DEVICE}")
    assert found["kind"] == "emulated"
    assert found["machine"]["architecture"] == "aarch64" and "Jetson Orin Nano" in found["machine"]["board"]
    assert found["runtime"]["version"] == "1.27.0" and found["runtime"]["provider"] == "CPUExecutionProvider"
    assert EMULATED in found["reasons"]
    assert found["state"]["before"]["power_mode"] == "0 15W"
    assert found["state"]["before"]["temperature_c"]["cpu-thermal"] == 48.5


def test_no_latency_of_it_is_shown(benched, added):
    assert EMULATED in benched.out + benched.err
    report = added.edgekd("report", "--json")
    assert report.code == 0, report.err
    listed = added.edgekd("artifacts", "ls")
    line = next(line for line in listed.out.splitlines() if f"bench/onnx-int8@{DEVICE}" in line)
    assert "top-1" in line and "ms" not in line


def test_a_second_bench_sends_no_file_again(benched, added):
    again = added.edgekd(*BENCH, "--device", DEVICE, "--format", "onnx-int8")
    assert again.code == 0, again.err
    assert "files sent" not in again.err


def test_a_power_mode_changed_meanwhile_voids_it(benched, added):
    status = added.board.file("var/lib/nvpmodel/status")
    before, modes = status.read_text(), itertools.cycle(["pmode:0001\n", "pmode:0000\n"])
    running = Running(added, *BENCH, "--device", DEVICE, "--format", "onnx-int8")
    try:
        until(lambda: any("runner.pyz bench" in words(pid) for pid in added.board.processes()), running)
        while running.process.poll() is None:
            status.write_text(next(modes))
            time.sleep(SWITCH_S)
    finally:
        status.write_text(before)
    done = running.end()
    assert done.code == 4, done.err
    assert "the power mode changed" in done.err
