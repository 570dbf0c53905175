"""Turn mode: a driver says how many queries; every command has one line for an answer."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest

from edgekd import predictions
from edgekd.runner import bundle as bundles
from edgekd.runner import state, turns
from edgekd.runner.__main__ import main
from edgekd.runner.failure import RunnerError
from edgekd.stages.bench import build_runner

NAMES = {"preprocess", "inference", "postprocess"}


def drive(bundle, out, text):
    """(result, the lines said) of a run in this process."""
    said = io.StringIO()
    result = turns.bench(bundles.read(bundle.folder), out, io.StringIO(text), said)
    return result, [json.loads(line) for line in said.getvalue().splitlines()]


def test_a_driver_speaks_with_the_zipapp(bundle, tmp_path):
    """Over pipes, one command at a time: nothing is held back in a buffer."""
    argv = [sys.executable, "-I", str(build_runner(tmp_path / "runner.pyz")), "bench", str(bundle.folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen([*argv, str(tmp_path / "out"), "--turns"], stdin=pipe, stdout=pipe, text=True) as child:
        ready = json.loads(child.stdout.readline())
        assert ready["ready"] is True
        assert ready["runtime"]["name"] == "onnxruntime"
        for count in (3, 70):
            child.stdin.write(f"step {count}\n")
            child.stdin.flush()
            found = json.loads(child.stdout.readline())
            assert len(found["ns"]) == found["queries"] == count
            assert set(found["parts"]) == NAMES
            np.testing.assert_array_equal(found["ns"], np.sum(list(found["parts"].values()), axis=0))
        child.stdin.write("finish\n")
        child.stdin.flush()
        last = json.loads(child.stdout.readline())
        assert child.stdout.read() == ""
    assert child.returncode == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (last["verdict"], last["kind"]) == (result["verdict"], "this CPU")
    assert (result["turns"], result["latency"]["end_to_end"]["n"]) == (2, 73)
    with np.load(tmp_path / "out" / "samples.npz") as file:
        assert file["end_to_end_ns"][3:].tolist() == found["ns"]
    assert len(predictions.load(tmp_path / "out").row) == len(bundle.rows)


def test_the_end_of_stdin_ends_it_and_writes_nothing(bundle, brief, tmp_path):
    result, said = drive(bundle, tmp_path / "out", "step 2\n")
    assert result is None
    assert len(said) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("line", ["step", "step 0", "step -1", "step two", "go", ""])
def test_what_is_no_command_is_answered_and_the_next_one_too(bundle, brief, tmp_path, line):
    _, said = drive(bundle, tmp_path / "out", f"{line}\nstep 1\n")
    assert said[1]["error"]["exit_code"] == 2
    assert said[2]["queries"] == 1


def test_finish_before_a_step_is_exit_2(bundle, brief, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("finish\n"))
    assert main(["bench", str(bundle.folder), str(tmp_path / "out"), "--turns"]) == 2


def test_what_others_do_between_steps_is_not_held_against_the_figures(bundle, brief, tmp_path, monkeypatch):
    """Counters of a machine on which two cores are at work whenever we are not."""
    looks = [
        (0, 0, 0),
        (1, 0, 2),
        (2, 1, 3),
        (1000, 1, 1999),
        (1001, 2, 2000),
        (1002, 2, 2002),
    ]  # seconds, own, all busy
    queue = iter(looks)

    def counters(root=None):
        clock, own, busy = next(queue)
        return {"clock_s": clock, "own_cpu_s": own, "all_cpu_s": {"busy": busy, "steal": 0.0}}

    monkeypatch.setattr(state, "counters", counters)
    result, _ = drive(bundle, tmp_path / "out", "step 64\nstep 64\nfinish\n")
    assert result["state"]["other_cores"] == 0
    assert not any("other programs" in reason for reason in result["reasons"])
    assert list(queue) == []


def test_a_wrong_golden_answer_is_exit_3_before_it_is_ready(bundle, brief, tmp_path):
    bundle.seal(mean=[0.5])
    with pytest.raises(RunnerError) as caught:
        drive(bundle, tmp_path / "out", "")
    assert caught.value.exit_code == 3


def test_the_driver_of_the_host_and_the_runner_speak_the_same(bundle, brief, tmp_path):
    """Every step's answer has what `edgekd.stages.turns` reads."""
    from edgekd.stages.turns import WHOLE

    _, said = drive(bundle, tmp_path / "out", "step 5\n")
    assert WHOLE not in said[1]["parts"]
    assert all(isinstance(value, int) for value in said[1]["ns"])


def test_a_step_in_which_the_machine_throttled_says_so(bundle, brief, tmp_path, monkeypatch):
    calm = state.look()
    looks = iter([calm, {**calm, "cooling": {"cpu-throttle-alert": 1}}])
    monkeypatch.setattr(state, "look", lambda root=None: next(looks, calm))
    _, said = drive(bundle, tmp_path / "out", "step 1\n")
    assert "cpu-throttle-alert" in said[1]["void"][0]
    _, said = drive(bundle, tmp_path / "out", "step 1\n")
    assert "void" not in said[1]
