"""Stage bench: a sealed export artifact is measured by the runner in its own process; its exit codes become our errors."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgekd import errors, predictions
from edgekd.console import Console
from edgekd.runner import state
from edgekd.stages import bench
from edgekd.stages.base import RunContext
from edgekd.store import Store
from edgekd.transport import local
from edgekd.transport.base import Completed
from tests.unit.runner.digit_bundle import MEAN, PARAMS, STD, classifier, digits, linear_onnx, logits_of


def seal(store, step, payload, write):
    """An artifact made by `write(folder)`."""
    key = hashlib.sha256(step.encode()).hexdigest()
    scratch = store.begin(step, key)
    write(scratch.out)
    return store.seal(scratch, step, key, payload, {"metrics": {}, "inputs": {}, "params": {}})


def write_data(folder):
    """Handwritten digits: 1,000 to train on, the rest to test on."""
    images, labels = digits()
    for split, part in (("train", slice(0, 1000)), ("test", slice(1000, None))):
        np.save(folder / f"images_{split}.npy", images[part])
        np.save(folder / f"labels_{split}.npy", labels[part])
    np.save(folder / "twins_train.npy", np.empty(0, np.int64))
    info = {"name": "digits", "classes": [str(i) for i in range(10)], "splits": {"train": 1000, "test": 797}}
    (folder / "data.json").write_text(json.dumps(info))


def write_export(folder):
    """Nearest class mean as one linear layer, its golden logits by NumPy."""
    images, labels = digits()
    weights, bias = classifier(images[:1000], labels[:1000])
    linear_onnx(folder / "model.onnx", weights, bias)
    np.savez(folder / "golden.npz", images=images[:4], logits=logits_of(images[:4], weights, bias))
    facts = {"classes": [str(i) for i in range(10)], "normalize": {"mean": MEAN, "std": STD}}
    (folder / "model.json").write_text(json.dumps(facts))
    np.save(folder / "expected.npy", logits_of(images[1000:], weights, bias))


@pytest.fixture
def world(tmp_path):
    """Sealed inputs, an output folder and a context."""
    store = Store(tmp_path / "ws")
    data = seal(store, "data", ("images_test.npy",), write_data)
    export = seal(store, "export/onnx", ("model.onnx",), write_export)
    out, resume = tmp_path / "out", tmp_path / "resume"
    out.mkdir()
    resume.mkdir()
    context = RunContext((), None, resume, Console(quiet=True))
    return SimpleNamespace(inputs={"data": data, "export": export}, out=out, resume=resume, context=context)


def measure(world, params=PARAMS):
    return bench.run(params, world.inputs, world.out, world.context)


def answers_with(monkeypatch, returncode, stderr):
    """The device's side of the conversation is played: only the mapping of its answer is looked at."""
    monkeypatch.setattr(local.Link, "run", lambda self, argv: Completed(returncode, "", stderr))


def said(code):
    return json.dumps({"exit_code": code, "where": "w", "found": "f", "expected": "e", "hint": "h"})


def test_a_real_measurement(world):
    result = measure(world)
    found = predictions.load(world.out)
    expected = np.load(world.inputs["export"].path / "expected.npy")
    np.testing.assert_allclose(found.logits, expected, rtol=2e-3, atol=2e-2)
    np.testing.assert_array_equal(found.row, np.arange(797))
    assert set(found.role) == {"test"}
    metrics = result.metrics
    assert result.payload == ("predictions.npz",)
    assert sorted(path.name for path in world.out.iterdir()) == ["predictions.npz", "result.json", "samples.npz"]
    assert list(world.resume.iterdir()) == []
    assert metrics.items() >= predictions.summarize(found).items()
    with np.load(world.out / "samples.npz") as file:
        ms = file["end_to_end_ns"] / 1e6
    assert metrics["latency_p50_ms"] == np.median(ms)
    assert metrics["latency_p90_ms"] == np.percentile(ms, 90)
    assert metrics["latency_p50_low_ms"] <= metrics["latency_p50_ms"] <= metrics["latency_p50_high_ms"]
    assert metrics["n_latency"] == len(ms)
    assert metrics["inference_p50_ms"] + metrics["preprocess_p50_ms"] < 2 * metrics["latency_p50_ms"]
    assert metrics["file_bytes"] == (world.inputs["export"].path / "model.onnx").stat().st_size
    assert (metrics["threads"], metrics["provider"]) == (1, "CPUExecutionProvider")
    assert metrics["verdict"] in ("valid", "valid-unlocked")
    assert metrics["includes_preprocess"] is True
    for name in ("throughput_per_s", "load_ms", "first_inference_ms", "peak_memory_mib"):
        assert metrics[name] > 0
    json.dumps(metrics, allow_nan=False)


@pytest.mark.parametrize(
    ("role", "name"), [("export", "model.onnx"), ("export", "golden.npz"), ("data", "images_test.npy")]
)
def test_a_byte_flipped_since_sealing_is_an_integrity_error(world, role, name):
    path = world.inputs[role].path / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    with pytest.raises(errors.IntegrityError, match=name):
        measure(world)


def test_no_machine_path_but_the_shared_data_is_in_the_bundle(world, monkeypatch):
    answers_with(monkeypatch, 7, said(7))
    with pytest.raises(errors.StageFailed):
        measure(world)
    bundle = json.loads((world.resume / "bench" / "bundle" / "bundle.json").read_text())
    assert Path(bundle["images"]).is_absolute()
    assert sorted(p.name for p in (world.resume / "bench" / "bundle").iterdir()) == [
        "bundle.json", "golden.npz", "model.onnx", "rows.npy"
    ]  # fmt: skip
    assert bundle["tolerance"] == 1e-4


def test_a_device_that_shares_no_files_gets_the_images(world, monkeypatch):
    answers_with(monkeypatch, 7, said(7))
    init = local.Link.__init__
    monkeypatch.setattr(local.Link, "__init__", lambda self: (init(self), setattr(self, "shares_files", False))[0])
    with pytest.raises(errors.StageFailed):
        measure(world)
    folder = world.resume / "bench" / "bundle"
    bundle = json.loads((folder / "bundle.json").read_text())
    assert bundle["images"] == "images_test.npy"
    assert (folder / "images_test.npy").read_bytes() == (world.inputs["data"].path / "images_test.npy").read_bytes()


def test_a_target_and_device_that_no_listing_knows_are_measured(world, monkeypatch):
    """Those of a user's own files: the parameters carry all that is asked of the profiles."""
    answers_with(monkeypatch, 7, said(7))
    own = {"target": "mine", "device": "my-board", "golden_error_to_range": 0.02}
    with pytest.raises(errors.StageFailed):
        measure(world, PARAMS.model_copy(update=own))
    bundle = json.loads((world.resume / "bench" / "bundle" / "bundle.json").read_text())
    assert (bundle["tolerance"], bundle["provider"]) == (0.02, "CPUExecutionProvider")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (2, errors.UsageError),
        (3, errors.CheckFailed),
        (4, errors.MeasurementVoid),
        (5, errors.MissingTool),
        (6, errors.IntegrityError),
        (7, errors.StageFailed),
    ],
)
def test_exit_codes_become_our_errors(world, monkeypatch, code, kind):
    answers_with(monkeypatch, code, f"a warning\n{said(code)}\n")
    with pytest.raises(kind) as caught:
        measure(world)
    assert type(caught.value) is kind
    assert (caught.value.exit_code, caught.value.where, caught.value.hint) == (code, "runner: w", "h")
    assert list(world.out.iterdir()) == []


@pytest.mark.parametrize("stderr", ["Traceback\nValueError: x", "", "[1]", "null", '{"exit_code": 99}'])
def test_an_answer_that_is_none_is_a_failed_stage(world, monkeypatch, stderr):
    answers_with(monkeypatch, 1, stderr)
    with pytest.raises(errors.StageFailed, match="exit code 1"):
        measure(world)


def test_an_interrupted_runner_interrupts(world, monkeypatch):
    answers_with(monkeypatch, 130, said(130))
    with pytest.raises(KeyboardInterrupt):
        measure(world)


def test_a_killed_runner_is_a_failed_stage(world, monkeypatch):
    monkeypatch.setattr(bench, "build_runner", lambda path: path.write_text("import os; os.kill(os.getpid(), 9)"))
    with pytest.raises(errors.StageFailed, match=r"killed by SIGKILL \(out of memory\?\)") as caught:
        measure(world)
    assert caught.value.exit_code == 7


def test_another_provider_voids(world):
    with pytest.raises(errors.MeasurementVoid, match="runs on CPUExecutionProvider"):
        measure(world, PARAMS.model_copy(update={"provider": "CUDAExecutionProvider"}))


def test_check_passes_here(world):
    bench.check(PARAMS, world.context)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"transport": "locall"}, errors.RecipeError),
        ({"runtime": "tensorrt"}, errors.MissingTool),
    ],
)
def test_check_refuses_before_work(world, change, kind):
    with pytest.raises(kind):
        bench.check(PARAMS.model_copy(update=change), world.context)


def test_check_says_what_to_install(world, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else find(name))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "edgekd.runner.runtimes.onnxruntime", raising=False)
    with pytest.raises(errors.MissingTool, match="pip install onnxruntime"):
        bench.check(PARAMS, world.context)


def test_fingerprint_says_what_makes_another_measurement(monkeypatch):
    import onnxruntime

    found = bench.fingerprint(PARAMS)
    assert found["runtime"] == f"onnxruntime {onnxruntime.__version__}"
    assert found["chip"] == state.machine()["cpu"]
    assert set(found) == {"chip", "cores", "python", "runtime", "provider", "transport", "governors"}
    assert found["transport"] == "local 1"
    assert bench.fingerprint(PARAMS) == found
    assert bench.fingerprint(PARAMS.model_copy(update={"provider": "CUDAExecutionProvider"})) != found
    monkeypatch.setattr(state, "governors", lambda: ["powersave"])
    assert bench.fingerprint(PARAMS) != found
    json.dumps(found, allow_nan=False)


def test_bench_imports_neither_torch_nor_a_runtime():
    code = (
        "import sys\nfrom edgekd.stages import bench\nfrom edgekd.params import BenchParams\n"
        f"bench.fingerprint(BenchParams.model_validate_json({PARAMS.model_dump_json()!r}))\n"
        "print([m for m in ('torch', 'torchvision', 'onnxsim', 'onnxruntime', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
