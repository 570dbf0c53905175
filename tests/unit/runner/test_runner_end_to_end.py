"""The whole runner on a real small model: in process, as `-m edgekd.runner`, and as the zipapp."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from digit_bundle import BundleFolder, linear_onnx, logits_of

from edgekd import predictions, stats
from edgekd.runner import measure, state
from edgekd.runner.__main__ import main
from edgekd.stages.bench import build_runner

ROOT = Path(__file__).resolve().parents[3]


def start(*argv, **environment):
    """A process with the runner; (exit code, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, *map(str, argv)], capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}
    )
    return done.returncode, done.stdout, done.stderr


def failed(capsys, arguments, code, reason):
    """Run in process; the one JSON line on stderr."""
    assert main([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    said = json.loads(err)
    assert (said["exit_code"], said["reason"]) == (code, reason)
    return said


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One real smoke run of the zipapp."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "bundle").mkdir()
    bundle = BundleFolder(folder / "bundle")
    pyz = build_runner(folder / "runner.pyz")
    code, out, err = start("-I", pyz, "bench", bundle.folder, folder / "out")
    assert (code, err) == (0, "")
    assert json.loads(out)["result"] == str(folder / "out" / "result.json")
    return bundle, folder / "out", json.loads((folder / "out" / "result.json").read_text())


def test_answers_are_the_models(measured):
    bundle, out, result = measured
    found = predictions.load(out)
    expected = logits_of(bundle.images[bundle.rows], bundle.weights, bundle.bias)
    assert found.logits.dtype == np.float16
    np.testing.assert_allclose(found.logits, expected, rtol=2e-3, atol=2e-2)
    np.testing.assert_array_equal(found.row, bundle.rows)
    np.testing.assert_array_equal(found.label, bundle.labels[bundle.rows])
    right = int((expected.argmax(axis=1) == found.label).sum())
    assert abs(result["accuracy"]["right"] - right) <= 1  # float16 may turn a tie
    assert result["accuracy"]["top1_percent"] > 80
    low, high = stats.wilson(result["accuracy"]["right"], len(bundle.rows))
    assert result["accuracy"]["top1_low_percent"] == pytest.approx(100 * low)
    assert result["accuracy"]["top1_high_percent"] == pytest.approx(100 * high)


def test_predictions_have_the_bytes_of_the_host_side(measured, tmp_path):
    _, out, _ = measured
    assert (out / "predictions.npz").read_bytes() == predictions.save(tmp_path, predictions.load(out)).read_bytes()


def test_every_sample_is_kept_and_the_figures_are_theirs(measured):
    _, out, result = measured
    with np.load(out / "samples.npz") as file:
        samples = dict(file)
    parts = {"preprocess_ns", "inference_ns", "postprocess_ns"}
    assert set(samples) == {"end_to_end_ns", *parts}
    np.testing.assert_array_equal(samples["end_to_end_ns"], sum(samples[name] for name in parts))
    assert all(values.dtype == np.int64 and values.min() > 0 for values in samples.values())
    assert samples["end_to_end_ns"].sum() / 1e9 <= 3.5
    for name, figures in result["latency"].items():
        ms = samples[name + "_ns"] / 1e6
        assert figures["n"] == len(ms)
        assert figures["p50_ms"] == np.median(ms)
        assert figures["p90_ms"] == np.percentile(ms, 90)
        assert figures["p50_low_ms"] <= figures["p50_ms"] <= figures["p50_high_ms"]
        assert figures["min_ms"] == ms.min()
        assert figures["max_ms"] == ms.max()
    assert result["includes_preprocess"] is True


def test_result_says_what_was_measured_where(measured):
    bundle, _, result = measured
    assert result["schema_version"] == 1
    assert result["profile"] == "smoke"
    assert result["model"]["sha256"] == bundle.json["files"]["model.onnx"]
    assert result["model"]["bytes"] == (bundle.folder / "model.onnx").stat().st_size
    assert result["runtime"]["provider"] == "CPUExecutionProvider"
    assert result["runtime"]["threads"] == 1
    assert result["runtime"]["settings"]["allow_spinning"] == "0"
    assert result["golden"]["images"] == 4
    assert result["golden"]["error_to_range"] <= 1e-4
    assert result["verdict"] in ("valid", "valid-unlocked")
    assert (result["verdict"] == "valid") == (result["reasons"] == [])
    assert result["load_ms"] > 0
    assert result["first_inference_ms"] > 0
    assert result["warm_up"]["queries"] >= 16
    assert 10 < result["peak_memory_mib"] < 1000
    assert result["offline"]["batch"] == 64
    assert result["offline"]["images"] % 64 == 0
    assert result["offline"]["throughput_per_s"] == pytest.approx(
        result["offline"]["images"] / result["offline"]["seconds"]
    )
    assert result["machine"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_times_that_are_kept_are_no_memory_of_the_model(bundle, tmp_path, monkeypatch):
    peak, stream = [50.0], measure.single_stream

    def long(*given):
        peak[0] = 900.0
        return stream(*given)

    monkeypatch.setattr(state, "peak_memory_mib", lambda: peak[0])
    monkeypatch.setattr(measure, "single_stream", long)
    assert main(["bench", str(bundle.folder), str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "result.json").read_text())["peak_memory_mib"] == 50.0


def test_module_and_zipapp_are_the_same_program(bundle, tmp_path):
    code, _, err = start(
        "-m", "edgekd.runner", "bench", bundle.seal(provider="CUDAExecutionProvider"), tmp_path / "out"
    )
    assert code == 4
    assert json.loads(err)["found"] == "runs on CPUExecutionProvider"


def test_a_file_outside_the_bundle_is_read_by_its_absolute_path(bundle, brief, tmp_path, capsys):
    import shutil

    for name in ("images.npy", "labels.npy"):
        shutil.move(bundle.folder / name, tmp_path / name)
    bundle.seal(images=str(tmp_path / "images.npy"), labels_file=str(tmp_path / "labels.npy"))
    said = failed(capsys, ["bench", bundle.folder, tmp_path / "out"], 6, "integrity")
    assert "no SHA-256" in said["found"]
    from edgekd.runner.verify import sha256

    files = {**bundle.json["files"], **{str(tmp_path / n): sha256(tmp_path / n) for n in ("images.npy", "labels.npy")}}
    bundle.seal(files=files)
    assert main(["bench", str(bundle.folder), str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("name", ["model.onnx", "images.npy", "labels.npy", "rows.npy", "golden.npz"])
def test_a_flipped_byte_is_exit_6_and_named(bundle, name, tmp_path, capsys):
    path = bundle.folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    said = failed(capsys, ["bench", bundle.folder, tmp_path / "out"], 6, "integrity")
    assert said["where"] == name
    assert said["expected"] == bundle.json["files"][name]
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_exit_6(bundle, tmp_path, capsys):
    (bundle.folder / "golden.npz").unlink()
    assert failed(capsys, ["bench", bundle.folder, tmp_path / "out"], 6, "integrity")["where"] == "golden.npz"


@pytest.mark.parametrize("name", ["model.onnx.data", "sub/extra.py", "link"])
def test_an_unlisted_file_is_exit_6(bundle, name, tmp_path, capsys):
    path = bundle.folder / name
    path.parent.mkdir(exist_ok=True)
    path.symlink_to("/nowhere") if name == "link" else path.write_bytes(b"x")
    assert failed(capsys, ["bench", bundle.folder, tmp_path / "out"], 6, "integrity")["where"] == name


def test_broken_json_is_exit_6(bundle, tmp_path, capsys):
    (bundle.folder / "bundle.json").write_text('{"schema_version": 1,')
    failed(capsys, ["bench", bundle.folder, tmp_path / "out"], 6, "integrity")


def test_rows_outside_the_images_are_exit_6(bundle, tmp_path, capsys):
    np.save(bundle.folder / "rows.npy", np.array([0, len(bundle.images)]))
    assert failed(capsys, ["bench", bundle.seal(), tmp_path / "out"], 6, "integrity")["where"] == "rows.npy"


def test_pickled_arrays_are_never_loaded(bundle, tmp_path, capsys):
    np.save(bundle.folder / "rows.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert failed(capsys, ["bench", bundle.seal(), tmp_path / "out"], 6, "integrity")["where"] == "rows.npy"


@pytest.mark.parametrize(
    "changes",
    [
        {"threads": 0},
        {"threads": True},
        {"profile": "quickly"},
        {"mean": None},
        {"std": [0.0]},
        {"std": [0.3, 0.3]},
        {"tolerance": -1},
        {"labels": ["one"]},
        {"schema_version": 1},
        {"surprise": 1},
        {"files": {"../model.onnx": "00"}},
        {"kind": "both"},
        {"kind": "deploy"},
        {"size": [8]},
        {"size": [8, 0]},
        {"resize": "crop"},
        {"device_kind": "desk"},
        {"precision": "int4"},
        {"options": 3},
        {"options": {"no_such": 1}},
        {"mean": [0.3, 0.3], "std": [0.3, 0.3]},
    ],
)
def test_a_wrong_bundle_json_is_exit_2(bundle, changes, tmp_path, capsys):
    failed(capsys, ["bench", bundle.seal(**changes), tmp_path / "out"], 2, "usage")


@pytest.mark.parametrize("arguments", [[], ["bench"], ["race", "a", "b"], ["bench", "/nowhere", "out"]])
def test_a_wrong_call_is_exit_2(arguments, capsys):
    failed(capsys, arguments, 2, "usage")


def test_an_unknown_runtime_is_exit_5(bundle, tmp_path, capsys):
    said = failed(capsys, ["bench", bundle.seal(runtime="tensorflux"), tmp_path / "out"], 5, "missing_tool")
    assert "onnxruntime" in said["expected"]


@pytest.mark.parametrize("package", ["onnxruntime", "numpy"])
def test_a_missing_package_is_exit_5_without_a_traceback(bundle, package, tmp_path):
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('not here', name={package!r})")
    code, out, err = start(
        "-m", "edgekd.runner", "bench", bundle.folder, tmp_path / "out", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}"
    )
    assert (code, out) == (5, "")
    said = json.loads(err)
    assert said["reason"] == "missing_tool"
    assert said["hint"] == f"pip install {package}"


def test_provider_fallback_is_exit_4(bundle, tmp_path, capsys):
    said = failed(
        capsys, ["bench", bundle.seal(provider="CUDAExecutionProvider"), tmp_path / "out"], 4, "measurement_void"
    )
    assert (said["found"], said["expected"]) == ("runs on CPUExecutionProvider", "CUDAExecutionProvider")


def test_another_normalisation_fails_the_golden_images(bundle, brief, tmp_path, capsys):
    said = failed(capsys, ["bench", bundle.seal(mean=[0.5]), tmp_path / "out"], 3, "check_failed")
    assert said["where"] == "golden images"
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_model_of_noise_is_exit_7(bundle, tmp_path, capsys):
    (bundle.folder / "model.onnx").write_bytes(b"no model")
    failed(capsys, ["bench", bundle.seal(), tmp_path / "out"], 7, "stage_failed")


def test_an_output_that_cannot_be_written_is_exit_7(bundle, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    failed(capsys, ["bench", bundle.folder, tmp_path / "file" / "out"], 7, "stage_failed")


def test_a_throttled_run_is_exit_4_and_keeps_its_result(bundle, brief, tmp_path, capsys, monkeypatch):
    from edgekd.runner import state

    counts = iter([3, 4])
    real = state.snapshot
    monkeypatch.setattr(state, "snapshot", lambda: {**real(), "throttle_count": next(counts)})
    said = failed(capsys, ["bench", bundle.folder, tmp_path / "out"], 4, "measurement_void")
    assert "throttled" in said["found"]
    assert json.loads((tmp_path / "out" / "result.json").read_text())["verdict"] == "void"


def test_a_model_of_fixed_batch_1_works_and_of_4_is_refused(bundle, brief, tmp_path, capsys):
    linear_onnx(bundle.folder / "model.onnx", bundle.weights, bundle.bias, batch=1)
    assert main(["bench", str(bundle.seal()), str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "result.json").read_text())["offline"]["batch"] == 1
    capsys.readouterr()
    linear_onnx(bundle.folder / "model.onnx", bundle.weights, bundle.bias, batch=4)
    assert "batch 4" in failed(capsys, ["bench", bundle.seal(), tmp_path / "out"], 2, "usage")["found"]


def test_fewer_test_images_than_a_batch(bundle, brief, tmp_path):
    np.save(bundle.folder / "rows.npy", np.arange(5))
    assert main(["bench", str(bundle.seal()), str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["offline"]["batch"], result["accuracy"]["n"]) == (5, 5)


def test_a_model_of_other_classes_is_exit_6(bundle, brief, tmp_path, capsys):
    failed(capsys, ["bench", bundle.seal(labels=["a", "b", "c"]), tmp_path / "out"], 6, "integrity")
