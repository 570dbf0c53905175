"""The engine `tensorrt` over a FAKE module and a FAKE CUDA: cache, rollback, buffers, errors. TensorRT itself runs in none of it."""

import json

import numpy as np
import pytest
from faketrt import GPU, Fake, FakeCuda

from edgekd.runner.failure import (
    CHECK_FAILED,
    ENGINE_MISMATCH,
    MISSING,
    STAGE_FAILED,
    USAGE,
    VOID,
    RunnerError,
)  # fmt: skip
from edgekd.runner.image import Normaliser
from edgekd.runner.loaded import Loaded
from edgekd.runner.runtimes.base import Setting
from edgekd.runner.trt import bindings, gpu, options
from tests.tolerances import LINEAR_FP32


@pytest.fixture
def device(bundle, tmp_path, monkeypatch):
    """`device(options)`: a loaded engine; `device.trt`, `device.facts`, `device.shelf()`, `device.golden(engine)`."""

    class Device:
        def __init__(self):
            self.facts, self.cache = dict(GPU), tmp_path / "cache"
            self.trt = Fake(FakeCuda(), bundle.weights, bundle.bias)
            self.model = bundle.folder / "model.onnx"

        def __call__(self, **given):
            engine = type("Engine", (bindings.Bindings,), {"trt": self.trt})()
            engine.load(self.model, Setting("TensorRT", 1, given, self.cache))
            return engine

        def shelf(self):
            return sorted(path.stem for path in self.cache.glob("tensorrt/*.engine"))

        def records(self):
            return [json.loads(path.read_text()) for path in sorted(self.cache.glob("tensorrt/*.json"))]

        def golden(self, engine):
            from edgekd.runner import bundle as bundles

            found = bundles.read(bundle.folder)
            return Loaded(found, Normaliser(found.mean, found.std), engine, "board", {}).golden()

    made = Device()
    monkeypatch.setattr(gpu, "facts", lambda: dict(made.facts))
    monkeypatch.setattr(bindings, "Cuda", lambda: made.trt.cuda)
    return made


def images(n):
    return np.random.Generator(np.random.PCG64(1)).normal(size=(n, 1, 8, 8)).astype(np.float32)


def expected(device, batch):
    return batch.reshape(len(batch), 64) @ device.trt.weights + device.trt.bias


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("n", [1, 3, 8, 19])
def test_answers_of_any_batch_also_beyond_the_engines_own(device, n, graph):
    engine = device(max_batch=8, cuda_graph=graph)
    for _ in range(2):
        np.testing.assert_allclose(engine.infer(images(n)), expected(device, images(n)), atol=LINEAR_FP32, rtol=0)
    assert len(engine.part_ns) == len(engine.parts) == 3 and min(engine.part_ns) > 0
    calls = device.trt.cuda.calls
    assert ("cudaGraphLaunch" in calls) == graph and calls.count("cudaStreamBeginCapture") <= 2
    engine.close()
    assert not device.trt.cuda.blocks  # pinned and device memory are given back


def test_an_engine_is_built_once_and_used_again(device):
    first = device()
    assert device.golden(first)["disagreements"] == 0 and first.settings["engine"] == "built now"
    second = device()
    assert device.trt.built == 1 and second.settings["engine"] == "built before" and len(device.shelf()) == 1
    assert second.provider == "TensorRT" and second.settings["device"] == "GPU"


@pytest.mark.parametrize(
    "change", ["gpu", "capability", "driver", "version", "workspace_mib", "tf32", "max_batch", "model"]
)
def test_what_an_engine_depends_on_makes_another(device, change, capsys):
    device.golden(device())
    given = {}
    if change in GPU:
        device.facts[change] = "another"
    elif change == "version":
        device.trt.__version__ = "10.14.0"
    elif change == "model":
        device.model = device.model.with_name("other.onnx")
        device.model.write_bytes(b"another")
    else:
        given = {change: True if change == "tf32" else 16}
    device(**given)
    assert device.trt.built == 2 and len(device.shelf()) == 2
    said = {"version": "tensorrt: 10.13.3 -> 10.14.0", "model": "first engine of this model"}
    assert said.get(change, change + ": ") in capsys.readouterr().err


@pytest.mark.parametrize("given", [{"cuda_graph": True}, {"timing_cache": False}])
def test_what_only_runs_or_speeds_building_makes_no_other_engine(device, given):
    device.golden(device())
    device(**given)
    assert device.trt.built == 1


def test_a_rejected_engine_is_never_left_as_current_and_the_one_before_takes_its_place(device, capsys):
    device.golden(device())
    (good,) = device.shelf()
    device.facts["driver"], device.trt.spoil = "a newer one", np.arange(10.0) * 50
    engine = device()
    assert len(device.shelf()) == 2
    assert device.golden(engine)["disagreements"] == 0  # judged again: the one before
    assert device.shelf() == [good] and device.records()[0]["accepted"] is True
    assert engine.settings["rolled_back_to"] == good[:12] and "back to the one before" in capsys.readouterr().err
    np.testing.assert_allclose(engine.infer(images(2)), expected(device, images(2)), atol=LINEAR_FP32, rtol=0)


@pytest.mark.parametrize(
    "change", ["gpu", "capability", "version", "tf32", "max_batch", "model", "unaccepted", "damaged"]
)
def test_it_goes_back_to_no_engine_that_is_not_of_this_device_or_was_never_accepted(device, change):
    before = device()
    if change != "unaccepted":
        device.golden(before)
    (good,) = device.shelf()
    device.trt.spoil, given = np.arange(10.0) * 50, {}
    if change in ("gpu", "capability"):
        device.facts[change] = "another"
    elif change == "version":
        device.trt.__version__ = "10.14.0"
    elif change == "model":
        device.model.write_bytes(device.model.read_bytes() + b"\x00")
    elif change in ("tf32", "max_batch"):
        given = {change: True if change == "tf32" else 16}
    else:
        device.facts["driver"] = "a newer one"
    if change == "damaged":
        (device.cache / "tensorrt" / (good + ".engine")).write_bytes(b"bad")
    engine = device(**given)
    with pytest.raises(RunnerError) as caught:
        device.golden(engine)
    assert caught.value.exit_code == CHECK_FAILED
    assert device.shelf() == [good]  # only the bad one is gone


def test_a_cached_engine_that_the_golden_images_reject_is_dropped_too(device):
    device.golden(device())
    engine = device()
    engine._session._context.engine.values = engine._session._context.engine.values + 100 * np.arange(10)
    with pytest.raises(RunnerError) as caught:
        device.golden(engine)
    assert caught.value.exit_code == CHECK_FAILED and device.shelf() == []
    assert device.golden(device())["disagreements"] == 0 and device.trt.built == 2


def test_two_engines_of_a_model_are_kept_and_another_models_are_left_alone(device):
    own = device.model.read_bytes()
    for model in (own, own + b"\x00"):
        device.model.write_bytes(model)
        for driver in ("1", "2", "3", "1"):
            device.facts["driver"] = driver
            device.golden(device())
    assert len(device.shelf()) == 4
    kept = {(record["facts"]["model"], record["facts"]["driver"]) for record in device.records()}
    assert {driver for _, driver in kept} == {"1", "3"} and len(kept) == 4


def test_a_damaged_engine_in_the_cache_is_built_again_and_said(device, capsys):
    device.golden(device())
    (name,) = device.shelf()
    place = device.cache / "tensorrt" / (name + ".engine")
    place.write_bytes(place.read_bytes()[:-1] + b"\x01")
    device()
    assert device.trt.built == 2 and "is damaged: building again" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", '{"facts": {}, "sha256": "", "accepted": true, "serial": 1}'])
def test_a_broken_record_in_the_cache_is_no_engine(device, text):
    device.golden(device())
    (name,) = device.shelf()
    (device.cache / "tensorrt" / (name + ".json")).write_text(text)
    device()
    assert device.trt.built == 2


@pytest.mark.parametrize(("refuse", "words"), [("deserialize", "got 10.3"), ("chip", "different models of devices")])
def test_an_engine_file_of_another_version_or_chip_is_exit_8(device, refuse, words):
    device()
    (name,) = device.shelf()
    device.model = device.cache / "tensorrt" / (name + ".engine")
    assert device().infer(images(2)).shape == (2, 10)  # of this device: it runs, and no shelf is needed
    device.trt.refuse = refuse
    with pytest.raises(RunnerError) as caught:
        device()
    assert caught.value.exit_code == ENGINE_MISMATCH and words in caught.value.found
    assert json.loads(caught.value.line())["reason"] == "engine_mismatch"


def test_an_engine_that_was_built_and_cannot_be_opened_is_not_kept(device):
    device.trt.refuse = "deserialize"
    with pytest.raises(RunnerError) as caught:
        device()
    assert caught.value.exit_code == STAGE_FAILED and device.shelf() == []


def test_memory_that_runs_out_in_the_build_names_the_option(device):
    device.trt.out_of_memory = True
    with pytest.raises(RunnerError) as caught:
        device(workspace_mib=512)
    assert caught.value.exit_code == STAGE_FAILED and "memory ran out" in caught.value.found
    assert "workspace_mib: 256" in caught.value.hint and device.shelf() == []


@pytest.mark.parametrize(
    ("refuse", "words"), [("parse", "does not parse it: not this operator"), ("build", "no reason given")]
)
def test_a_refused_file_is_a_failed_stage(device, refuse, words):
    device.trt.refuse = refuse
    with pytest.raises(RunnerError) as caught:
        device()
    assert caught.value.exit_code == STAGE_FAILED and words in caught.value.found


@pytest.mark.parametrize(
    ("version", "layers", "flags", "strong"),
    [
        ("8.6.1", ["Q"], {"INT8", "FP16"}, False),
        ("10.3.0", ["Q"], set(), True),
        ("11.4.0", ["Q"], set(), True),
        ("8.6.1", [], set(), False),
    ],
)
def test_precision_is_in_the_graph_and_flags_only_where_there_is_no_strong_typing(
    device, bundle, version, layers, flags, strong
):
    device.trt = Fake(device.trt.cuda, bundle.weights, bundle.bias, version)
    device.trt.layers = [layer for layer in device.trt.layers if layer.type in layers]
    device()
    assert device.trt.flags == flags and device.trt.network_flags == (2 if strong else 1)
    device(tf32=True)
    assert device.trt.flags == flags | {"TF32"}


def layer(name, kind):
    return json.dumps({"Name": name, "LayerType": kind})


DLA = layer("{ForeignNode[conv1...fc]}", "DLA")


@pytest.mark.parametrize(
    ("layers", "given", "words"),
    [
        ([DLA, layer("softmax", "SoftMax")], {}, "1 layers run on the GPU: softmax"),
        ([layer("conv1", "CaskConvolution")], {"gpu_fallback": True}, "no layer is on the DLA"),
        (['"conv1"'], {}, "does not say where"),
        ([], {}, "does not say where"),
    ],
)
def test_a_dla_that_would_not_do_it_all_voids_the_run(device, layers, given, words):
    device.trt.dla_layers, device.trt.layers = layers, []
    with pytest.raises(RunnerError) as caught:
        device(dla_core=1, **given)
    assert caught.value.exit_code == VOID and words in caught.value.found and device.shelf() == []


def test_layers_that_leave_the_dla_when_they_may_are_named(device, capsys):
    device.trt.dla_layers, device.trt.layers = [DLA, layer("softmax", "SoftMax"), layer("copy", "Reformat")], []
    engine = device(dla_core=1, gpu_fallback=True)
    assert engine.settings["device"] == "DLA core 1" and engine.settings["layers_on_gpu"] == "softmax"
    assert "GPU_FALLBACK" in device.trt.flags and "softmax" in capsys.readouterr().err
    assert device.trt.most == 1  # a DLA takes no range of batches


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ({"dla_core": 2}, MISSING, "core 2 of 2"),
        ({"dla_core": 0}, USAGE, "takes no explicit Q/DQ"),
        ({"gpu_fallback": True}, USAGE, "without dla_core"),
        ({"workspace": 1}, USAGE, "unknown name 'workspace'"),
        ({"workspace_mib": 0}, USAGE, "0"),
        ({"cuda_graph": 1}, USAGE, "1"),
        ({"max_batch": True}, USAGE, "True"),
        ({"max_batch": 0}, USAGE, "0"),
        ({"optimization_level": 6}, USAGE, "6"),
    ],
)
def test_options_that_cannot_be_are_refused_before_building(device, given, code, words):
    if given.get("dla_core") == 2:
        device.trt.layers = []
    with pytest.raises(RunnerError) as caught:
        device(**given)
    assert caught.value.exit_code == code and words in caught.value.found and device.trt.built == 0


def test_another_provider_is_never_run_instead(device):
    engine = type("Engine", (bindings.Bindings,), {"trt": device.trt})()
    with pytest.raises(RunnerError) as caught:
        engine.load(device.model, Setting("CPUExecutionProvider", 1, {}, device.cache))
    assert caught.value.exit_code == VOID


@pytest.mark.parametrize("version", ["8.5.2.2", "7.1.3"])
def test_bindings_older_than_the_checked_ones_are_refused(device, bundle, version):
    device.trt = Fake(device.trt.cuda, bundle.weights, bundle.bias, version)
    with pytest.raises(RunnerError) as caught:
        device()
    assert caught.value.exit_code == MISSING and f"TensorRT {version} is older than 8.6" in caught.value.found


def test_options_of_building_are_all_but_those_of_running():
    assert set(vars(options.Options())) - set(options.Options().build) == {"cuda_graph", "timing_cache"}
