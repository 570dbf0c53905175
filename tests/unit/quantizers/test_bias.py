"""Bias correction: the shift is what NumPy says, it goes into the bias, and it goes away."""

import numpy as np
import pytest
from onnx import numpy_helper

from edgekd import onnxfile
from edgekd.quantizers import bias, calibrate, qdq
from edgekd.quantizers.ptq import PTQ
from tests.quantgraphs import images, stack, varied
from tests.tolerances import SHIFT_LEFT


@pytest.fixture
def source(tmp_path):
    return qdq.prepare(onnxfile.save(stack(), tmp_path / "graph.onnx"))


def weights(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_the_shift_of_a_gemm_is_what_its_formula_says(source):
    batch = images(50)
    limits = calibrate.limits(source, [batch], "minmax", "u8s8")
    found = bias.shifts(source, "u8s8", limits, None, [batch[:30], batch[30:]], [], 1)
    assert set(found) == {"c1", "c2", "fc"}
    x = next(calibrate.observed(source, [batch], ["f"]))["f"].astype(np.float64)
    low, high = (float(np.min(end)) for end in limits["f"])
    rounds = calibrate.made(min(low, 0.0), high, qdq.FORMS["u8s8"])
    steps = np.clip(np.rint(x / rounds.scale) + rounds.zero_point, 0, 255)
    seen = (steps - rounds.zero_point) * rounds.scale
    w = weights(source)["fc.w"].astype(np.float64)
    scale = np.abs(w).max(axis=1, keepdims=True) / 127
    rounded = np.clip(np.rint(w / scale), -127, 127) * scale
    assert np.allclose(found["fc"], (x @ w.T - seen @ rounded.T).mean(axis=0), atol=1e-4)
    assert np.abs(found["fc"]).max() > 1e-3


@pytest.mark.parametrize("scheme", qdq.FORMS)
def test_every_layer_is_given_its_shift_with_or_without_a_bias_before(scheme, tmp_path):
    source = qdq.prepare(onnxfile.save(varied(), tmp_path / "graph.onnx"))
    batch = images(60)
    limits = calibrate.limits(source, [batch], "minmax", scheme)
    before = bias.shifts(source, scheme, limits, None, [batch], [], 1)
    changed = bias.shifted(source, before)
    assert set(before) == {"c1", "dw", "gr", "c2", "head"}
    old, new = weights(source), weights(changed)
    for node in changed.graph.node:
        if node.name in before:
            given = old.get(f"{node.name}.b", np.zeros(len(before[node.name])))  # c2 had no bias
            assert np.allclose(new[node.input[2]] - given, before[node.name], atol=1e-6)
    assert "c1.b" in old and "c1.b" not in new and len(source.graph.node) == len(changed.graph.node)


@pytest.mark.parametrize("scheme", qdq.FORMS)
def test_the_first_layers_output_keeps_its_mean(scheme, tmp_path):
    """The layer whose input is no other layer's: there the whole shift is its own."""
    path, batch = onnxfile.save(stack(), tmp_path / "graph.onnx"), images(60)
    wanted = next(calibrate.observed(stack(), [batch], ["a"]))["a"].mean(axis=(0, 2, 3))
    drift = {}
    for corrected in (False, True):
        method = PTQ("minmax", bias_correction=corrected)
        model = onnxfile.load(method.quantize(path, tmp_path / "q.onnx", calibration=[batch], scheme=scheme))
        output = next(node for node in model.graph.node if node.name == "c1").output[0]
        found = next(calibrate.observed(model, [batch], [output]))[output].mean(axis=(0, 2, 3))
        drift[corrected] = np.abs(found - wanted)
    assert drift[True].max() < SHIFT_LEFT * drift[False].max()


def test_a_layer_that_stays_in_float_keeps_its_bias(tmp_path):
    path = onnxfile.save(stack(), tmp_path / "graph.onnx")
    draft = PTQ("minmax", bias_correction=True).draft(path, [images(40)], "u8s8")
    kept = weights(draft.written(["c1"]))
    assert np.array_equal(kept["c1.b"], weights(stack())["c1.b"])
    assert "c2_corrected_bias_quantized" in kept and "c1_corrected_bias_quantized" in weights(draft.written())
