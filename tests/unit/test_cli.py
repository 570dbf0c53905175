"""The command line as a user meets it: real processes, exit codes, one-screen errors, nothing lost."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from PIL import Image

RECIPE = {
    "name": "tiny",
    "data": {"use": "digits", "train": 200},
    "teacher": {"model": "resnet8", "fit": {"epochs": 1, "lr": 0.1}},
    "student": {"model": "resnet8", "fit": {"epochs": 4, "lr": 0.1}},
    "distill": {"use": "rtk", "beta": 50},
    "quantize": {"images": 64},
    "bench": {"profile": "smoke"},
}


def edgekd(*argv, cwd, env=None):
    environment = {**os.environ, "COLUMNS": "200", **(env or {})}
    for name in ("EDGEKD_DATA", "EDGEKD_WORKSPACE"):
        environment.pop(name, None) if not env or name not in env else None
    return subprocess.run(
        [sys.executable, "-m", "edgekd", *argv], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


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


PROBE = """
import sys
sys.argv = ["edgekd", "run", "--recipe", "tiny.yaml"]
from edgekd.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code
assert not {"torch", "torchvision", "onnxsim"} & set(sys.modules)
"""


def test_a_cached_run_imports_no_torch(home):
    done = subprocess.run([sys.executable, "-c", PROBE], cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "made " not in done.stderr and "reused" in done.stderr


def test_json_is_versioned_and_alone_on_stdout(home):
    for argv in (
        ["run"], ["artifacts", "ls"], ["artifacts", "show", "student"], ["artifacts", "verify"], ["artifacts", "gc"],
        ["eval", "student", "--against", "teacher"], ["report"], ["run", "--dry-run"], ["formats"], ["devices"],
        ["models"], ["distillers"], ["recipes", "ls"], ["recipes", "show", "tiny.yaml"], ["doctor"],
        ["recipes", "validate", "tiny.yaml", "--deep"],
    ):  # fmt: skip
        done = edgekd(*argv, "--json", cwd=home)
        assert done.returncode == 0, (argv, done.stderr)
        assert json.loads(done.stdout)["schema_version"] == 1, argv


def test_every_command_ends_with_the_next_one(home):
    for argv in (
        ["artifacts", "ls"],
        ["artifacts", "verify"],
        ["eval"],
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


def test_verify_names_a_flipped_byte_and_gc_keeps_what_is_needed(home):
    listing = json.loads(edgekd("artifacts", "gc", "--json", cwd=home).stdout)
    before = json.loads(edgekd("artifacts", "ls", "--json", cwd=home).stdout)["artifacts"]
    assert edgekd("artifacts", "tag", "keep", "teacher", cwd=home).returncode == 0
    removed = json.loads(edgekd("artifacts", "gc", "--yes", "--json", cwd=home).stdout)["removed"]
    assert set(removed) <= set(listing["removable"]) and len(removed) < len(before)
    assert edgekd("run", "--recipe", "tiny.yaml", "--json", cwd=home).returncode == 0
    folder = home / "workspace" / "artifacts" / "student"
    weights = next(folder.iterdir()) / "weights.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    done = edgekd("artifacts", "verify", "--json", cwd=home)
    weights.write_bytes(good)
    assert done.returncode == 6
    assert "weights.safetensors" in done.stderr and json.loads(done.stdout)["error"]["reason"] == "integrity"
    assert edgekd("artifacts", "verify", cwd=home).returncode == 0


BAD_CALLS = [
    (["run"], 2, "nothing was made here yet"),
    (["run", "--recipe", "none.yaml"], 2, "no such file"),
    (["run", "--recipe", "quikstart"], 2, "quickstart"),
    (["run", "--recipe", "quickstart", "--set", "distill.bta=1"], 2, "beta"),
    (["run", "--recipe", "quickstart", "--frob"], 2, "--frob"),
    (["export", "--recipe", "quickstart", "--format", "onx"], 2, "onnx"),
    (["bench", "--recipe", "quickstart", "--device", "jetson"], 2, "cpu"),
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
    (tmp_path / "there.yaml").write_text("x: 1\n")
    done = edgekd(*argv, cwd=tmp_path)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert says in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 20
    assert not (tmp_path / "workspace" / "artifacts" / "teacher").exists()


def test_a_bound_that_is_missed_is_exit_3(home):
    done = edgekd("eval", "student", "--min-top1", "100", "--json", cwd=home)
    assert done.returncode == 3 and "at least 100" in done.stderr


def test_no_color_in_a_pipe(home):
    assert "\x1b" not in edgekd("artifacts", "ls", cwd=home).stdout
