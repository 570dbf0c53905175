"""A run that is cut short keeps what is finished, and the next one goes on from there: kill, full disk, no memory, changed bundle."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgekd import predictions
from edgekd.runner import answers, measure, partial, state
from edgekd.runner.__main__ import main
from edgekd.runner.runtimes import onnxruntime as engine

FILES = ["predictions.npz", "result.json", "samples.npz"]


class Counted(engine.Engine):
    """Counts the images of batches, and stops as it is told after so many of them."""

    images, queries, stop, after = 0, 0, None, 10**9

    def infer(self, batch):
        kind = type(self)
        if len(batch) == 1:
            kind.queries += 1
        elif kind.images >= kind.after:
            raise kind.stop
        else:
            kind.images += len(batch)
        return super().infer(batch)


@pytest.fixture
def counted(monkeypatch):
    """The engine that counts; every batch of the accuracy pass is a piece; no throughput pass."""
    monkeypatch.setattr(engine, "Engine", type("Engine", (Counted,), {}))
    monkeypatch.setattr(answers, "PIECE_S", 0.0)
    monkeypatch.setattr(answers, "throughput", lambda *_: {})
    return engine.Engine


def run(bundle, out, *more):
    return main(["bench", *more, str(bundle.folder), str(out)])


def notes(capsys):
    return [json.loads(line)["note"] for line in capsys.readouterr().err.splitlines() if '"note"' in line]


def told(capsys):
    """How many answers the runner has said to be kept, one after the other."""
    lines = [line for line in capsys.readouterr().err.splitlines() if '"kept"' in line]
    return [json.loads(line)["kept"]["answered"] for line in lines]


def cut_short(bundle, out, engine, stop, after=128, more=()):
    """The accuracy pass stops after so many images; the exit code."""
    engine.stop, engine.after = stop, after
    code = run(bundle, out, *more)
    engine.after = 10**9
    return code


STOPS = {
    "no memory": (MemoryError(), 7),
    "disk full": (OSError(28, "No space left on device", "x"), 7),
    "Ctrl-C": (KeyboardInterrupt(), 130),
}


@pytest.mark.parametrize("name", STOPS)
def test_the_latency_part_is_not_repeated_and_the_rest_is_answered(bundle, brief, counted, name, tmp_path, capsys):
    out = tmp_path / "out"
    assert cut_short(bundle, out, counted, *STOPS[name][:1]) == STOPS[name][1]
    said = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert said["exit_code"] == STOPS[name][1]
    assert not (out / "result.json").exists()
    samples = (out / "samples.npz").read_bytes()
    counted.images = counted.queries = 0
    assert run(bundle, out) == 0
    assert counted.images == len(bundle.rows) - 128
    assert counted.queries == 4  # the golden images, and no stream
    assert (out / "samples.npz").read_bytes() == samples
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert "latency part is done" in notes(capsys)[0]
    assert "gone on from there" in json.loads((out / "result.json").read_text())["notes"][0]


def test_answers_of_two_runs_are_those_of_one(bundle, brief, counted, tmp_path):
    cut_short(bundle, tmp_path / "two", counted, MemoryError(), 200)
    assert run(bundle, tmp_path / "two") == run(bundle, tmp_path / "one") == 0
    one, two = (predictions.load(tmp_path / name) for name in ("one", "two"))
    np.testing.assert_array_equal(one.logits, two.logits)
    np.testing.assert_array_equal(one.answer, two.answer)
    assert len(one.row) == len(bundle.rows)


def test_what_is_kept_is_told_as_it_grows(bundle, brief, counted, tmp_path, capsys):
    out, all_of_them = tmp_path / "out", len(bundle.rows)
    cut_short(bundle, out, counted, MemoryError(), more=["--tell"])
    assert told(capsys) == [0, 64, 128]
    assert run(bundle, out, "--tell") == 0
    again = told(capsys)
    assert again[0] == 128 and again[-1] == all_of_them and again == sorted(again)
    assert run(bundle, out, "--tell") == 0
    assert told(capsys) == [all_of_them]
    assert run(bundle, out) == 0
    assert told(capsys) == []


def test_nothing_is_told_to_be_kept_before_the_latencies_are(bundle, brief, counted, tmp_path, capsys, monkeypatch):
    def broken(*given):
        raise MemoryError

    monkeypatch.setattr(measure, "single_stream", broken)
    assert run(bundle, tmp_path / "out", "--tell") == 7
    assert told(capsys) == []


def test_a_piece_that_is_no_array_and_those_after_it_are_answered_again(bundle, brief, counted, tmp_path):
    out = tmp_path / "out"
    cut_short(bundle, out, counted, MemoryError(), 192)
    pieces = sorted(path.name for path in out.glob("answers-*.npy"))
    assert pieces == ["answers-0.npy", "answers-128.npy", "answers-64.npy"]
    (out / "answers-64.npy").write_bytes(b"\x93NUMPY")
    counted.images = 0
    assert run(bundle, out) == 0
    assert counted.images == len(bundle.rows) - 64


@pytest.mark.parametrize("change", [{"tolerance": 2e-4}, {"threads": 2}])
def test_a_changed_bundle_starts_over_and_says_so(bundle, brief, counted, change, tmp_path, capsys):
    out = tmp_path / "out"
    cut_short(bundle, out, counted, MemoryError())
    bundle.seal(**change)
    counted.images = 0
    capsys.readouterr()
    assert run(bundle, out) == 0
    assert counted.images == len(bundle.rows)
    assert "bundle changed" in notes(capsys)[0]
    assert "bundle changed" in json.loads((out / "result.json").read_text())["notes"][0]


def test_another_version_of_the_engine_starts_over(bundle, brief, counted, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    cut_short(bundle, out, counted, MemoryError())
    monkeypatch.setattr(engine.ort, "__version__", "9.9.9")
    assert run(bundle, out) == 0
    assert "runtime changed" in notes(capsys)[0]


def test_a_finished_result_is_kept_and_said_to_be(bundle, brief, counted, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(bundle, out) == 0
    before = {name: (out / name).read_bytes() for name in FILES}
    assert run(bundle, out) == 0
    assert {name: (out / name).read_bytes() for name in FILES} == before
    assert "holds this result already" in notes(capsys)[0]


def test_a_void_result_is_measured_again(bundle, brief, counted, tmp_path, capsys, monkeypatch):
    counts = iter([3, 4, 4, 4])
    snapshot, look = state.snapshot, state.look
    monkeypatch.setattr(state, "snapshot", lambda: {**snapshot(), "throttle_count": next(counts)})
    monkeypatch.setattr(state, "look", lambda root=state.ROOT: {**look(root), "throttle_count": None})
    assert run(bundle, tmp_path / "out") == 4
    counted.images = 0
    assert run(bundle, tmp_path / "out") == 0
    assert counted.images == len(bundle.rows)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full: a device whose disk is always full")
@pytest.mark.parametrize("name", ["samples.npz", "partial.json", "predictions.npz", "result.json"])
def test_a_full_disk_is_exit_7_and_the_next_run_goes_on(bundle, brief, counted, name, tmp_path, capsys, monkeypatch):
    """The file is written into /dev/full, which takes nothing."""
    out = tmp_path / "out"
    out.mkdir()
    fill = out / (name + ".part")
    if name in ("predictions.npz", "result.json"):
        cut_short(bundle, out, counted, MemoryError())
        capsys.readouterr()
    fill.symlink_to("/dev/full")
    with monkeypatch.context() as patched:
        patched.setattr(partial.Partial, "clear", lambda self: None)  # which removes what is half-written
        code = run(bundle, out)
    said = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (code, said["exit_code"], said["found"]) == (7, 7, "No space left on device")
    assert not fill.is_symlink()
    assert not (out / "result.json").exists()
    assert run(bundle, out) == 0
    assert sorted(path.name for path in out.iterdir()) == FILES


SLOW = """
import sys, time
from edgekd.runner import answers, measure
from edgekd.runner.__main__ import main
from edgekd.runner.runtimes import onnxruntime as engine
answers.PIECE_S = 0.0
answers.throughput = lambda *_: {}
measure.WARM_LEAST_S = 0.01
measure.PROFILES["smoke"] = measure.Profile(64, 0.05, 0.01)
class Engine(engine.Engine):
    def infer(self, batch):
        if len(batch) > 1:
            time.sleep(0.05)
        return super().infer(batch)
engine.Engine = Engine
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130), (signal.SIGHUP, 130), (signal.SIGKILL, -9)])
def test_a_signal_in_the_accuracy_pass_leaves_the_pieces(bundle, brief, counted, number, code, tmp_path, capsys):
    """A process of its own, killed as soon as it has kept a piece; then gone on with here."""
    out = tmp_path / "out"
    argv = [sys.executable, "-c", SLOW, "bench", str(bundle.folder), str(out)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as child:
        while not (out / "answers-64.npy").exists():
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.005)
        os.kill(child.pid, number)
        said = child.stderr.read()
    assert child.returncode == code
    if code == 130:
        assert json.loads(said)["found"] == f"interrupted by {signal.Signals(number).name}"
    assert not (out / "result.json").exists()
    assert run(bundle, out) == 0
    assert counted.images <= len(bundle.rows) - 128
    assert sorted(path.name for path in out.iterdir()) == FILES


def test_mlperf_is_labelled(bundle, brief, counted, tmp_path):
    bundle.seal(profile="mlperf")
    assert run(bundle, tmp_path / "out") == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["label"] == "MLPerf-style, unverified"
    assert result["latency"]["end_to_end"]["p90_bound_ms"] >= result["latency"]["end_to_end"]["p90_ms"]
    assert measure.LABELS.get("quick") is None


@pytest.mark.parametrize("how", ["profile", "mark"])
def test_what_an_emulated_device_measures_says_so(bundle, brief, counted, how, tmp_path, monkeypatch):
    if how == "profile":
        bundle.seal(device_kind="emulated")
    else:
        monkeypatch.setattr(state, "emulated", lambda root=None: "/etc/edgekd-emulated")
    assert run(bundle, tmp_path / "out") == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["kind"] == "emulated"
    assert result["reasons"][0] == "emulated: correctness only"
    assert result["verdict"] == "valid-unlocked"


class Simulated(Counted):
    """What an accelerator's simulator is."""

    kind = "simulator"
    parts = ("host_to_device", "compute", "device_to_host")
    part_ns = [1, 2, 3]  # noqa: RUF012


def test_a_simulators_kind_and_the_parts_of_its_inference(bundle, brief, counted, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "Engine", Simulated)
    assert run(bundle, tmp_path / "out") == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["kind"] == "simulator"
    assert {name: figures["p50_ms"] for name, figures in result["parts"].items()} == {
        "host_to_device": 1e-6,
        "compute": 2e-6,
        "device_to_host": 3e-6,
    }
    with np.load(tmp_path / "out" / "samples.npz") as file:
        assert len(file["compute_ns"]) == len(file["end_to_end_ns"])


class Apart(Counted):
    """A program of its own that times itself, one query in a process."""

    whole = True
    parts = ("host_to_device", "compute", "device_to_host")

    def own_times(self, batch, seconds, queries):
        return [[10, 100 + i % 7, 10] for i in range(70)]


def test_an_engine_that_times_itself(bundle, brief, counted, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "Engine", Apart)
    assert run(bundle, tmp_path / "out") == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["includes_preprocess"] is False
    assert result["latency"]["end_to_end"] == result["latency"]["inference"]
    assert result["latency"]["end_to_end"]["p50_ms"] == pytest.approx(123e-6)
    assert result["accuracy"]["n"] == len(bundle.rows)
    assert Apart.images == 4 + len(bundle.rows)  # the golden images, then all the others, each at once
    assert "own loop" in result["notes"][0]


class Rebuilt(Counted):
    """Built wrongly; an earlier build is right."""

    wrong, judgements = True, []

    def infer(self, batch):
        return super().infer(batch) * (-1 if self.wrong else 1)

    def judged(self, accepted):
        self.judgements.append(accepted)
        went_back = not accepted and self.wrong
        self.wrong = False
        return went_back


def test_an_engine_that_goes_back_is_judged_again(bundle, brief, counted, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "Engine", Rebuilt)
    assert main(["selftest", str(bundle.folder)]) == 0
    assert Rebuilt.judgements == [False, True]
