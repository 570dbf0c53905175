"""The command line as a user meets it: real processes, exit codes, one-screen errors, nothing lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image
from torchless import torchless

from edgekd import cli, predictions

RECIPE = {
    "name": "tiny",
    "data": {"use": "digits", "train": 200},
    "teacher": {"model": "resnet8", "fit": {"epochs": 1, "lr": 0.1, "device": "cpu"}},
    "student": {"model": "resnet8", "fit": {"epochs": 4, "lr": 0.1, "device": "cpu"}},
    "distill": {"use": "rtk", "beta": 50},
    "quantize": {"images": 64},
    "bench": {"profile": "smoke"},
}


TRAINING_STARTS = 120  # seconds that a busy machine may take to import torch and finish a first tiny epoch


def environment_of(env=None):
    environment = {**os.environ, "COLUMNS": "200", **(env or {})}
    for name in ("EDGEKD_DATA", "EDGEKD_WORKSPACE"):
        environment.pop(name, None) if not env or name not in env else None
    return environment


def edgekd(*argv, cwd, env=None):
    return subprocess.run(
        [sys.executable, "-m", "edgekd", *argv],
        cwd=cwd,
        env=environment_of(env),
        capture_output=True,
        text=True,
        check=False,
    )


def listed(home):
    return {a["id"] for a in json.loads(edgekd("artifacts", "ls", "--json", cwd=home).stdout)["artifacts"]}


def folder_of(home, step):
    name = json.loads(edgekd("artifacts", "show", step, "--json", cwd=home).stdout)["id"]
    return home / "workspace" / "artifacts" / name


def made(home, *argv):
    """{step: id} of a chain command."""
    done = edgekd(*argv, "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    return {step["step"]: step["artifact"] for step in json.loads(done.stdout)["steps"]}


@pytest.fixture
def copy(home, tmp_path):
    """A copy of the home whose artifacts may be spoilt."""
    shutil.copytree(home, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a recipe whose whole chain has been run."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    done = edgekd("run", "--recipe", "tiny.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "next: edgekd predict" in done.stdout and "report: " in done.stdout
    for step in ("teacher", "student", "quantized/u8s8", "bench/onnx-int8@cpu"):
        assert step in done.stdout
    return folder


def test_a_cached_run_imports_no_torch(home):
    done = torchless(home, "run", "--recipe", "tiny.yaml")
    assert "made " not in done.stderr and "reused" in done.stderr


def test_json_is_versioned_and_alone_on_stdout(home):
    for argv in (
        ["run"], ["artifacts", "ls"], ["artifacts", "show", "student"], ["artifacts", "verify"], ["artifacts", "gc"],
        ["eval", "student", "--against", "teacher"], ["report"], ["ledger"], ["run", "--dry-run"], ["formats"], ["devices"],
        ["models"], ["distillers"], ["recipes", "ls"], ["recipes", "show", "tiny.yaml"], ["doctor"],
        ["recipes", "validate", "tiny.yaml", "--deep"], ["compare", "--methods", "kd", "--dry-run"],
    ):  # fmt: skip
        done = edgekd(*argv, "--json", cwd=home)
        assert done.returncode == 0, (argv, done.stderr)
        assert json.loads(done.stdout)["schema_version"] == 1, argv


def test_every_command_ends_with_the_next_one(home):
    for argv in (
        ["artifacts", "ls"],
        ["artifacts", "verify"],
        ["eval"],
        ["ledger"],
        ["report"],
        ["formats"],
        ["doctor"],
        ["run", "--dry-run"],
    ):
        done = edgekd(*argv, cwd=home)
        assert done.stdout.rstrip().split("\n")[-1].startswith("next: "), (argv, done.stdout, done.stderr)


def test_predict_names_a_class_for_files_and_folders(home, tmp_path):
    Image.new("L", (8, 8), 128).save(tmp_path / "a.png")
    Image.new("RGB", (50, 20), (200, 0, 0)).save(tmp_path / "b.jpg")
    done = edgekd("predict", str(tmp_path), "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    images = json.loads(done.stdout)["images"]
    assert [len(i["classes"]) for i in images] == [3, 3]
    assert all(0 <= c["probability"] <= 1 for i in images for c in i["classes"])


def test_output_copies_what_ships(home, tmp_path):
    done = edgekd("export", "--format", "onnx-int8", "--output", str(tmp_path), cwd=home)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "export-onnx-int8" / "model.onnx").stat().st_size > 1000


def test_from_starts_at_an_artifact(home):
    done = edgekd("quantize", "--from", "student", "--set", "quantize.calibrate=minmax", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "chosen with --from" in done.stderr


def test_verify_names_a_flipped_byte(copy):
    weights = folder_of(copy, "student") / "weights.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    done = edgekd("artifacts", "verify", "--json", cwd=copy)
    assert done.returncode == 6
    assert "weights.safetensors" in done.stderr and json.loads(done.stdout)["error"]["reason"] == "integrity"
    weights.write_bytes(good)
    assert edgekd("artifacts", "verify", cwd=copy).returncode == 0


def test_gc_keeps_the_current_run_and_what_is_tagged_and_removes_what_is_superseded(home):
    superseded = made(home, "distill", "--recipe", "tiny.yaml", "--set", "student.fit.epochs=1")["student"]
    tagged = made(home, "distill", "--recipe", "tiny.yaml", "--set", "data.train=100")
    assert edgekd("artifacts", "tag", "keep", tagged["student"], cwd=home).returncode == 0
    current = made(home, "run", "--recipe", "tiny.yaml")
    needed = {*current.values(), *tagged.values()}
    before = listed(home)
    assert {superseded, *needed} <= before and len({superseded, current["student"], tagged["student"]}) == 3

    removable = set(json.loads(edgekd("artifacts", "gc", "--json", cwd=home).stdout)["removable"])
    assert superseded in removable and not removable & needed
    assert listed(home) == before

    removed = set(json.loads(edgekd("artifacts", "gc", "--yes", "--json", cwd=home).stdout)["removed"])
    assert removed == removable
    assert listed(home) == before - removed
    assert not (home / "workspace" / "artifacts" / superseded).exists()
    assert edgekd("artifacts", "verify", cwd=home).returncode == 0
    assert made(home, "run", "--recipe", "tiny.yaml") == current


def test_gc_leaves_unfinished_steps_unless_told(copy):
    unfinished = copy / "workspace" / "artifacts" / ".scratch" / "teacher-0123abcd"
    (unfinished / "resume").mkdir(parents=True)
    assert edgekd("artifacts", "gc", "--yes", cwd=copy).returncode == 0
    assert unfinished.is_dir()
    assert edgekd("artifacts", "gc", "--yes", "--unfinished", cwd=copy).returncode == 0
    assert not unfinished.exists()


BAD_CALLS = [
    (["run"], 2, "nothing was made here yet"),
    (["run", "--recipe", "none.yaml"], 2, "no such file"),
    (["run", "--recipe", "quikstart"], 2, "quickstart"),
    (["run", "--recipe", "quickstart", "--set", "distill.bta=1"], 2, "beta"),
    (["run", "--recipe", "quickstart", "--frob"], 2, "--frob"),
    (["export", "--recipe", "quickstart", "--format", "onx"], 2, "onnx"),
    (["bench", "--recipe", "quickstart", "--device", "jetsom"], 2, "jetson"),
    (["bench", "--recipe", "quickstart", "--device", "jetson"], 5, "edgekd devices add NAME --host user@board"),
    (["bench", "--recipe", "quickstart", "--format", "trt"], 5, "a board with tensorrt"),
    (["lint", "none.onnx", "--format", "trt"], 2, "no such file"),
    (["artifacts", "show", "nothing"], 2, "edgekd artifacts ls"),
    (["artifacts", "tag", "../x", "latest"], 2, "tag name"),
    (["predict", "none.png"], 2, "no such file"),
    (["eval", "--max-drop", "1"], 2, "--against"),
    (["distill", "--recipe", "cifar10_resnet20_short"], 2, "EDGEKD_DATA"),
    (["train", "--recipe", "quickstart", "--set", "teacher.fit.device=cuda"], 5, "cuda"),
    (["recipes", "cp", "quickstart", "there.yaml"], 2, "exists"),
    (["run", "--recipe", "quickstart", "--workspace", "there.yaml"], 7, "there.yaml"),
]


@pytest.mark.parametrize(("argv", "code", "says"), BAD_CALLS, ids=[" ".join(c[0]) for c in BAD_CALLS])
def test_a_bad_call_is_one_screen_and_the_right_code(argv, code, says, tmp_path):
    if "teacher.fit.device=cuda" in argv and pytest.importorskip("torch").cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    (tmp_path / "there.yaml").write_text("x: 1\n")
    done = edgekd(*argv, cwd=tmp_path)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert says in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 20
    assert not (tmp_path / "workspace" / "artifacts" / "teacher").exists()


@pytest.mark.parametrize(
    ("argv", "code", "facts"),
    [
        (["eval", "student", "--min-top1", "100"], 3, {"artifact", "top1_percent", "recall"}),
        (["eval", "student", "--against", "teacher", "--max-drop", "-100"], 3, {"artifact", "against"}),
        (["doctor", "--workspace", "tiny.yaml"], 5, {"usable", "findings"}),
        (["artifacts", "show", "nothing"], 2, set()),
        (["run", "--frob"], 2, set()),
        (["bench", "--threads", "0"], 2, set()),
        (["predict"], 2, set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_failure_is_one_json_document_with_the_facts_and_the_error(home, argv, code, facts):
    done = edgekd(*argv, "--json", cwd=home)
    document = json.loads(done.stdout)  # a second document would be "Extra data"
    assert done.returncode == document["error"]["exit_code"] == code
    assert document["schema_version"] == 1 and facts <= set(document)
    assert "rror: " in done.stderr and "Traceback" not in done.stderr
    if code == 2:
        assert document["error"]["reason"] == "usage"


def test_a_bound_that_is_missed_is_exit_3(home):
    done = edgekd("eval", "student", "--min-top1", "100", cwd=home)
    assert done.returncode == 3 and "at least 100" in done.stderr
    assert "recall %" in done.stdout and "next: " not in done.stdout


def test_a_misused_command_prints_its_usage(tmp_path):
    done = edgekd("run", "--frob", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("Usage: edgekd run [OPTIONS]")
    assert edgekd("--version", cwd=tmp_path).returncode == edgekd("run", "--help", cwd=tmp_path).returncode == 0
    assert edgekd(cwd=tmp_path).returncode == 2


def test_answers_on_other_images_are_not_compared(copy):
    teacher = folder_of(copy, "teacher")
    answers = predictions.load(teacher)
    predictions.save(teacher, replace(answers, label=(answers.label + 1) % 10))
    done = edgekd("eval", "student", "--against", "teacher", cwd=copy)
    assert done.returncode == 2 and "another label" in done.stderr and "drop" not in done.stdout


def test_damaged_predictions_are_named(copy):
    teacher = folder_of(copy, "teacher")
    (teacher / "predictions.npz").write_bytes(b"PK\x03\x04 broken")
    for argv in (["eval", "teacher"], ["eval", "student", "--against", "teacher"], ["report"]):
        done = edgekd(*argv, cwd=copy)
        assert done.returncode == 6, (argv, done.stderr)
        assert f"teacher/{teacher.name}: predictions.npz" in done.stderr and "Traceback" not in done.stderr


def test_predict_refuses_16_bits_a_channel(home, tmp_path):
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "deep.png")
    done = edgekd("predict", str(tmp_path / "deep.png"), cwd=home)
    assert done.returncode == 6 and "deep.png" in done.stderr and "8 bits a channel" in done.stderr


@pytest.mark.parametrize(
    ("command", "overrides", "training"), [("bench", ["a=1", "bench.threads=4"], None), ("run", ["a=1"], 4)]
)
def test_threads_of_bench_are_those_of_the_measurement(monkeypatch, command, overrides, training):
    seen = []
    monkeypatch.setattr("edgekd.commands.chain.chain", lambda goal, options: seen.append(options))
    monkeypatch.setattr(sys, "argv", ["edgekd", command, "--set", "a=1", "--threads", "4"])
    cli.main()
    assert (seen[0].overrides, seen[0].threads) == (overrides, training)


def test_ctrl_c_in_a_training_says_what_is_kept(tmp_path):
    recipe = {
        **RECIPE,
        "teacher": {"model": "resnet8", "fit": {"epochs": 5000, "lr": 0.1, "device": "cpu", "compile": False}},
    }
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(recipe))
    argv = [sys.executable, "-m", "edgekd", "train", "--recipe", "long.yaml"]
    process = subprocess.Popen(
        argv, cwd=tmp_path, env=environment_of(), stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job inherits SIG_IGN
    )  # fmt: skip
    scratch = tmp_path / "workspace" / "artifacts" / ".scratch"
    limit = time.monotonic() + TRAINING_STARTS
    while not any(path.is_file() for path in scratch.glob("teacher*/resume/*")):
        if process.poll() is not None or time.monotonic() > limit:
            process.kill()
            pytest.fail(process.communicate()[1])
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group
    try:
        _, said = process.communicate(timeout=TRAINING_STARTS)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert said.rstrip().endswith("the same command goes on from there") and "Traceback" not in said


@pytest.mark.parametrize("argv", [["artifacts", "ls"], ["artifacts", "ls", "--json"], ["recipes", "ls"]], ids=" ".join)
def test_a_closed_pipe_is_silent(home, argv):
    reader, writer = os.pipe()
    os.close(reader)  # `| head` that has read enough
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "edgekd", *argv],
            cwd=home, env=environment_of(), stdout=closed, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (141, "")


def test_no_color_in_a_pipe(home):
    assert "\x1b" not in edgekd("artifacts", "ls", cwd=home).stdout
