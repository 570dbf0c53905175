"""The engines OpenVINO, QNN and PyTorch: right answers, the device that was asked for or none, one image after the other."""

import importlib.util
import platform
import sys

import numpy as np
import onnx
import pytest
import torch

from edgekd.runner.failure import MISSING, STAGE_FAILED, USAGE, VOID, RunnerError
from edgekd.runner.runtimes import base
from tests.tolerances import LINEAR_FP32
from tests.unit.runner.digit_bundle import classifier, digits, linear_onnx, logits_of


@pytest.fixture
def digit_model(tmp_path):
    """(path, batch [5, 1, 8, 8], its logits)."""
    images, labels = digits()
    weights, bias = classifier(images[:500], labels[:500])
    linear_onnx(tmp_path / "model.onnx", weights, bias)
    batch = ((images[:5].transpose(0, 3, 1, 2) / 255 - 0.3) / 0.35).astype(np.float32)
    return tmp_path / "model.onnx", batch, logits_of(images[:5], weights, bias)


def engine(name, module, install):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: {install}")
    return base.find(name)()


def openvino():
    return engine("openvino", "openvino", "pip install 'edgekd[openvino]'")


def qnn():
    return engine("qnn", "onnxruntime_qnn", "pip install 'edgekd[qnn]'")


def setting(provider, tmp_path, **options):
    return base.Setting(provider, 1, options, tmp_path / "cache")


def refusal(made, path, asked):
    with pytest.raises(RunnerError) as error:
        made.load(path, asked)
    return error.value


def test_openvino_answers_on_the_device_that_it_names(digit_model, tmp_path):
    path, batch, wanted = digit_model
    made = openvino()
    made.load(path, setting("CPU", tmp_path))
    assert made.provider == "CPU" and made.settings["execution_devices"] == "CPU"
    assert made.batch == 1 and made.settings["precision"] == "float32"
    assert np.allclose(made.infer(batch), wanted, rtol=0, atol=LINEAR_FP32 * np.abs(wanted).max())
    first = made.infer(batch[:1])
    made.infer(batch[1:2])
    assert np.allclose(first, wanted[:1], rtol=0, atol=LINEAR_FP32 * np.abs(wanted).max())  # not a view of the next
    made.close()


def test_openvino_counts_nobody(digit_model, tmp_path):
    openvino()
    assert sys.modules["openvino_telemetry"] is None


def test_openvino_has_no_other_device_in_its_place(digit_model, tmp_path):
    path, _, _ = digit_model
    assert refusal(openvino(), path, setting("TPU", tmp_path)).exit_code == MISSING
    assert refusal(openvino(), path, setting("CPU", tmp_path, spin=1)).exit_code == USAGE
    path.write_bytes(b"no model")
    assert refusal(openvino(), path, setting("CPU", tmp_path)).exit_code == STAGE_FAILED


def test_qnn_leaves_no_operator_to_the_cpu_and_names_it(tmp_path):
    made = qnn()
    node = onnx.helper.make_node("Det", ["input"], ["logits"], name="the_det")
    shapes = {"input": [1, 4, 4], "logits": [1]}
    values = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n, shape in shapes.items()]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    error = refusal(made, tmp_path / "model.onnx", setting("QNNExecutionProvider", tmp_path))
    assert error.exit_code == VOID and "Det the_det" in error.found


def test_qnn_on_x86_says_that_it_is_emulated(digit_model, tmp_path):
    path, batch, wanted = digit_model
    images, labels = digits()
    linear_onnx(path, *classifier(images[:500], labels[:500]), batch=1)
    made = qnn()
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("the emulator is for x86")
    assert refusal(made, path, setting("CPUExecutionProvider", tmp_path)).exit_code == VOID
    made.load(path, setting("QNNExecutionProvider", tmp_path))
    assert made.kind == "emulated" and made.provider == "QNNExecutionProvider"
    # floats are computed in 16 bits
    assert np.abs(made.infer(batch) - wanted).max() < 0.01 * np.ptp(wanted)


@pytest.fixture
def program(tmp_path):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    image = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.export.save(torch.export.export(network, (image,)), tmp_path / "model.pt2")
    with torch.inference_mode():
        return tmp_path / "model.pt2", image.numpy(), network(image).numpy()


def test_torch_runs_a_program_eagerly_and_says_so(program, tmp_path):
    path, image, wanted = program
    made = base.find("torch")()
    made.load(path, setting("cpu", tmp_path))
    assert made.batch == 1 and made.provider == "cpu" and made.settings == {"mode": "eager"}
    assert np.array_equal(made.infer(image), wanted)
    with pytest.raises(RunnerError) as error:
        made.infer(np.zeros((1, 2, 8, 8), np.float32))
    assert error.value.exit_code == STAGE_FAILED


def test_torch_refuses_what_it_is_not(program, tmp_path):
    path, _, _ = program
    made = base.find("torch")()
    assert refusal(made, path, setting("cuda", tmp_path)).exit_code == VOID
    assert refusal(made, path, setting("cpu", tmp_path, fast=1)).exit_code == USAGE
    path.write_bytes(b"no program")
    assert refusal(made, path, setting("cpu", tmp_path)).exit_code == STAGE_FAILED
