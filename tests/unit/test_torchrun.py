"""`torchrun --nproc-per-node 2 -m edgekd ...` as a user meets it: one result, one message, nothing lost when a process dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgekd import cli
from tests.unit.fit.processes import ENDS, start

RECIPE = {
    "name": "tiny",
    "data": {"use": "digits", "train": 200},
    "teacher": {"model": "resnet8", "fit": {"epochs": 1, "lr": 0.1, "device": "cpu"}},
    "student": {"model": "resnet8", "fit": {"epochs": 12, "lr": 0.1, "device": "cpu"}},
    "distill": {"use": "rtk", "beta": 50},
    "quantize": {"images": 64},
}

# What torchrun starts instead of `-m edgekd`: it leaves the process's number and its exit code beside the recipe.
WITNESS = """
import os, sys
from pathlib import Path
rank = os.environ["RANK"]
Path(f"pid{rank}").write_text(str(os.getpid()))
from edgekd.cli import main
try:
    main()
    code = 0
except SystemExit as stop:
    code = stop.code
Path(f"code{rank}").write_text(str(code))
sys.exit(code)
"""


@dataclass(frozen=True)
class Whole:
    """A home in which two processes have distilled: its steps and its log."""

    home: Path
    steps: dict[str, dict[str, Any]]
    log: str


def torchrun(home: Path, *argv: str) -> subprocess.Popen[str]:
    """--standalone takes a free port."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "witness.py", *argv]
    environment = {name: value for name, value in os.environ.items() if name != "EDGEKD_DATA"}
    return subprocess.Popen(
        command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def single(home: Path, *argv: str) -> dict[str, dict[str, Any]]:
    """{step: facts} of a command in one process."""
    command = [sys.executable, "-m", "edgekd", *argv, "--json"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=True, timeout=ENDS)
    return {step["step"]: step for step in json.loads(done.stdout)["steps"]}


def folder(path: Path) -> Path:
    (path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    (path / "witness.py").write_text(WITNESS)
    return path


def in_training(home: Path, code: Callable[[], int | None]) -> None:
    """Wait until three epochs of the student are finished."""
    end = time.monotonic() + ENDS
    while not list(home.glob("workspace/artifacts/.scratch/student-*/resume/epoch-000003.safetensors")):
        assert time.monotonic() < end and code() is None
        time.sleep(0.002)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    home = folder(tmp_path_factory.mktemp("whole"))
    process = torchrun(home, "distill", "--recipe", "tiny.yaml", "--json")
    out, err = process.communicate(timeout=ENDS)
    assert process.returncode == 0, err
    assert [(home / f"code{rank}").read_text() for rank in (0, 1)] == ["0", "0"]
    return Whole(home, {step["step"]: step for step in json.loads(out)["steps"]}, err)


def test_two_processes_give_one_result(whole: Whole) -> None:
    home, steps, log = whole.home, whole.steps, whole.log
    assert log.count("made    student/") == log.count("student: resnet8 by rtk") == 1
    assert "2 processes, BatchNorm over each process's part" in log
    for step in ("teacher", "student"):
        assert (steps[step]["metrics"]["processes"], steps[step]["metrics"]["batchnorm"]) == (2, "process")
        manifest = json.loads((home / "workspace/artifacts" / steps[step]["artifact"] / "manifest.json").read_text())
        assert manifest["environment"] == {"device": "cpu", "precision": "fp32", "processes": 2}
        assert manifest["threads"] == max(len(os.sched_getaffinity(0)) // 2, 1)
    assert not list(home.glob("workspace/artifacts/.scratch/*"))


def test_one_process_goes_on_from_what_several_have_trained(whole: Whole) -> None:
    after = single(whole.home, "distill")
    for step in ("teacher", "student"):
        assert after[step]["artifact"] == whole.steps[step]["artifact"]
        assert after[step]["why"] == "same parameters and inputs, trained by 2 processes"
    anew = single(whole.home, "distill", "--force", "--dry-run")
    assert (anew["teacher"]["state"], anew["student"]["state"]) == ("reused", "to make")
    assert anew["student"]["why"] == "environment.processes: 2 -> absent"


def test_a_killed_process_ends_all_and_the_run_resumes(whole: Whole, tmp_path: Path) -> None:
    home = folder(tmp_path)
    process = torchrun(home, "distill", "--recipe", "tiny.yaml")
    in_training(home, process.poll)
    os.kill(int((home / "pid0").read_text()), signal.SIGKILL)
    _, err = process.communicate(timeout=ENDS)
    assert process.returncode == 1  # torchrun's own
    assert (home / "code1").read_text() == "7" and not (home / "code0").exists(), err
    assert err.count("worker died") == err.count("error: ") == 1, err
    assert "try: run the same command again: it resumes" in err
    again = start(home, cli.main, "distill", "--recipe", "tiny.yaml", "--json")
    assert again.ended() == [0, 0], again.said("err")
    assert "student: going on after epoch" in again.said("err")
    resumed = {step["step"]: step["artifact"] for step in json.loads(again.said("out"))["steps"]}
    assert resumed == {name: step["artifact"] for name, step in whole.steps.items()}


def test_ctrl_c_ends_all(tmp_path: Path) -> None:
    home = folder(tmp_path)
    started = start(home, cli.main, "distill", "--recipe", "tiny.yaml")
    in_training(home, lambda: started.workers[0].exitcode)
    for worker in started.workers:
        os.kill(worker.pid, signal.SIGINT)
    assert started.ended() == [130, 130], started.said("err")
    assert started.said("err").count("interrupted; what was finished is kept") == 1


def test_a_recipe_that_is_refused_ends_all_before_work(tmp_path: Path) -> None:
    home = folder(tmp_path)
    odd = ("--set", "student.fit.batch_size=33")
    started = start(home, cli.main, "distill", "--recipe", "tiny.yaml", *odd, "--json")
    assert started.ended() == [2, 2]
    err = started.said("err")
    assert err.count("error: ") == err.count("33 images for 2 processes") == 1, err
    assert json.loads(started.said("out"))["error"]["reason"] == "recipe"
    assert not (home / "workspace" / "artifacts" / "teacher").exists()
