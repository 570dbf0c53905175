"""LiteRT's int8 kernels on real aarch64 binaries over real SSH, held to what x86-64 answers; times are held to nothing.

A kept .tflite goes as a bundle of the runner; the whole way from a student, on a board that says it is a Raspberry Pi 5, wants
the tool environment that makes such files.
"""

import json

import numpy as np
import pytest

from edgekd.errors import MissingTool
from edgekd.runner.verify import sha256
from edgekd.stages.bench_bundle import build_runner
from edgekd.tools import place
from tests.board import litert
from tests.board.board import ALIAS
from tests.board.striking import rewritten
from tests.board.world import around
from tests.tolerances import INT8_OTHER_PROCESSOR_TO_RANGE, LITERT_OTHER_PROCESSOR_TO_RANGE, OTHER_ANSWERS

pytestmark = pytest.mark.device
EMULATED = "emulated: correctness only"
VERSION = "ai_edge_litert 2.3.0"
PI = "Raspberry Pi 5 Model B Rev 1.0"
BENCH = ("bench", "--set", "bench.profile=smoke", "--format", litert.TARGET)


@pytest.fixture(scope="module")
def bundles(board):
    """The runner and a bundle for each kind of kernels, in the board's home."""
    home = board.file("root/litert")
    home.mkdir()
    build_runner(home / "runner.pyz")
    for kernels in litert.KERNELS:
        litert.lay(home / kernels, kernels, "board")
    return home


@pytest.fixture(scope="module")
def x86():
    with np.load(litert.ANSWERS) as kept:
        return {kernels: kept[kernels].astype(float) for kernels in litert.KERNELS}


def test_the_kept_answers_can_tell_kernels_apart(x86):
    assert len(x86["xnnpack"]) == 359
    assert np.any(x86["xnnpack"] != x86["builtin"]) and np.any(x86["xnnpack"] != x86["reference"])


def test_probe_finds_the_engine(bundles, board):
    done = board.run("cd litert && python3 runner.pyz probe")
    found = json.loads(done.stdout)
    assert found["engines"]["litert"] == VERSION and found["machine"]["architecture"] == "aarch64"


def test_selftest(bundles, board):
    done = board.run("cd litert && python3 runner.pyz selftest xnnpack")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kernels", litert.KERNELS)
def test_answers_are_those_of_x86(bundles, board, x86, kernels):
    done = board.run(f"cd litert && python3 runner.pyz bench {kernels} {kernels}-out")
    assert done.returncode == 0, done.stderr
    with np.load(bundles / f"{kernels}-out" / "predictions.npz") as file:
        there = file["logits"].astype(float)
    assert np.abs(there - x86[kernels]).max() <= LITERT_OTHER_PROCESSOR_TO_RANGE[kernels] * np.ptp(x86[kernels])
    assert np.mean(there.argmax(axis=1) != x86[kernels].argmax(axis=1)) <= OTHER_ANSWERS
    result = json.loads((bundles / f"{kernels}-out" / "result.json").read_text())
    assert result["kind"] == "emulated" and EMULATED in result["reasons"]
    assert result["machine"]["architecture"] == "aarch64"
    assert result["runtime"]["version"] == VERSION and result["runtime"]["settings"]["kernels"] == kernels


def test_a_truncated_file_is_a_clear_error(bundles, board):
    folder = litert.lay(bundles / "short", "xnnpack", "board")
    path, told = folder / litert.MODEL.name, folder / "bundle.json"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    facts = json.loads(told.read_text())
    told.write_text(json.dumps({**facts, "files": {**facts["files"], path.name: sha256(path)}}))
    done = board.run("cd litert && python3 runner.pyz selftest short")
    assert done.returncode == 7 and "model.tflite" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def pi(board, request, tmp_path_factory):
    """The whole way: export, then the same file on the board and here."""
    try:
        place.require("litert", "this test")
    except MissingTool as missing:
        pytest.skip(f"needs the tool that makes a .tflite: {missing.found} (edgekd tools install litert)")
    source = request.getfixturevalue("chain_source")  # not made for nothing
    with around(board, tmp_path_factory.mktemp("litert") / "world", source) as world:
        with rewritten(board.file("proc/device-tree/model"), PI + "\0"):
            for line in (
                ("devices", "add", "pi", "--host", ALIAS, "--profile", "raspberry-pi-5"),
                ("export", "--format", litert.TARGET),
                (*BENCH, "--device", "pi"),
                (*BENCH, "--device", "cpu"),
            ):
                done = world.edgekd(*line)
                assert done.code == 0, (line, done.err)
        yield world
        (world.folder_of_boards / "pi.yaml").unlink()


def test_a_student_goes_the_whole_way(pi):
    answers = []
    for device in ("pi", "cpu"):
        with np.load(pi.newest(f"bench/{litert.TARGET}@{device}") / "predictions.npz") as file:
            answers.append({name: file[name] for name in file})
    there, here = answers
    np.testing.assert_array_equal(there["row"], here["row"])
    logits = here["logits"].astype(float)
    assert np.abs(there["logits"].astype(float) - logits).max() <= INT8_OTHER_PROCESSOR_TO_RANGE * np.ptp(logits)
    assert np.mean(there["answer"] != here["answer"]) <= OTHER_ANSWERS


def test_it_is_marked_emulated_and_no_latency_is_shown(pi):
    found = json.loads((pi.newest(f"bench/{litert.TARGET}@pi") / "result.json").read_text())
    assert found["kind"] == "emulated" and EMULATED in found["reasons"]
    assert found["machine"]["board"] == PI and found["runtime"]["provider"] == "cpu"
    listed = pi.edgekd("artifacts", "ls").out.splitlines()
    line = next(line for line in listed if f"bench/{litert.TARGET}@pi" in line)
    assert "top-1" in line and "ms" not in line
