"""Convolutions of pooled vectors: which they are, and their weights alone in int8."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd import onnxfile, onnxrun
from edgekd.analysis.parity import int8_parity
from edgekd.data import normalize, roles
from edgekd.quantizers.gates import gates, quantize_weights
from edgekd.quantizers.ptq import PTQ
from tests.onnxtoys import ROLES, chain
from tests.quantgraphs import build
from tests.tolerances import WEIGHTS_INT8_SQNR_DB

NORM = ((0.5, 0.45, 0.4), (0.25, 0.2, 0.3))


def gated() -> onnx.ModelProto:
    """A convolution gated by two 1x1 convolutions of its mean, then a Gemm: [B, 3, 6, 6] -> [B, 5]."""
    random = np.random.default_rng(0)
    shapes = {"conv": (4, 3, 3, 3), "down": (2, 4, 1, 1), "up": (4, 2, 1, 1), "gemm": (5, 4)}
    weights = [numpy_helper.from_array(random.normal(size=s).astype(np.float32), f"{n}.w") for n, s in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["input", "conv.w"], ["map"], "conv"),
        helper.make_node("GlobalAveragePool", ["map"], ["mean"], "mean"),
        helper.make_node("Conv", ["mean", "down.w"], ["low"], "down"),
        helper.make_node("Relu", ["low"], ["active"], "relu"),
        helper.make_node("Conv", ["active", "up.w"], ["high"], "up"),
        helper.make_node("Sigmoid", ["high"], ["gate"], "sigmoid"),
        helper.make_node("Mul", ["map", "gate"], ["scaled"], "mul"),
        helper.make_node("GlobalAveragePool", ["scaled"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "gemm.w"], ["logits"], "gemm", transB=1),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
        for name, size in (("input", ["batch", 3, 6, 6]), ("logits", ["batch", 5]))
    ]
    graph = helper.make_graph(nodes, "gated", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def test_gates_are_found_and_nothing_else() -> None:
    assert gates(gated()) == ["down", "up"]


def test_what_changes_nothing_in_a_graph_is_not_offered(tmp_path) -> None:
    with_gates = onnxfile.save(gated(), tmp_path / "gated.onnx")  # one feeds the next: equalizing does something, too
    assert PTQ().moot(with_gates) == frozenset()
    nodes = [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("Gemm", ["flat", "w"], ["logits"])]
    flat = build(nodes, {"w": np.ones((16, 5), np.float32)}, (1, 4, 4), "flat")
    assert PTQ().moot(onnxfile.save(flat, tmp_path / "flat.onnx")) == {"gates", "equalize"}


def test_weights_come_back_to_half_a_step_of_their_channel() -> None:
    model = gated()
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    layers = gates(model)
    quantize_weights(model, layers)
    onnx.checker.check_model(model, full_check=True)
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    stored = {f"{name}.w_{part}" for name in layers for part in ("quantized", "scale", "zero_point")}
    assert set(after) == {"conv.w", "gemm.w"} | stored
    for name in layers:
        weight, values, scale = before[f"{name}.w"], after[f"{name}.w_quantized"], after[f"{name}.w_scale"]
        assert values.dtype == np.int8 and len(scale) == len(weight)
        wide = scale.reshape(-1, 1, 1, 1)
        assert (np.abs(values * wide - weight) <= wide * 0.5001).all()
        assert (np.abs(values.astype(int)).max(axis=(1, 2, 3)) == 127).all()


def test_the_restored_network_answers_as_the_float_one() -> None:
    images = np.random.default_rng(1).normal(size=(20, 3, 6, 6)).astype(np.float32)
    first = onnxrun.infer(onnxrun.session(gated().SerializeToString()), images)
    model = quantize_weights(gated(), gates(gated()))
    second = onnxrun.infer(onnxrun.session(model.SerializeToString()), images)
    assert int8_parity(first, second).sqnr_db > WEIGHTS_INT8_SQNR_DB
    assert not np.array_equal(first, second)


def test_ptq_leaves_the_arithmetic_of_gates_in_float(tmp_path) -> None:
    graph = onnxfile.save(gated(), tmp_path / "graph.onnx")
    images = np.random.default_rng(1).normal(size=(200, 3, 6, 6)).astype(np.float32)
    reference = onnxrun.infer(onnxrun.session(graph.read_bytes()), images)
    reports = {}
    for kind in ("int8", "float"):
        path = PTQ("minmax", kind).quantize(graph, tmp_path / f"{kind}.onnx", calibration=[images], scheme="u8s8")
        model = onnxfile.load(path)
        made_by = {name: node.op_type for node in model.graph.node for name in node.output}
        convolutions = {node.name: node for node in model.graph.node if node.op_type == "Conv"}
        for name, node in convolutions.items():
            assert made_by[node.input[1]] == "DequantizeLinear"
            assert (made_by[node.input[0]] == "DequantizeLinear") == (kind == "int8" or name == "conv")
        reports[kind] = int8_parity(reference, onnxrun.infer(onnxrun.session(path.read_bytes()), images))
    assert set(convolutions) == {"conv", "down", "up"}
    assert reports["float"].passed and reports["float"] != reports["int8"]


def test_a_network_without_gates_comes_out_the_same(tmp_path) -> None:
    images = normalize.apply(roles.split(chain().data, ROLES).images("train")[:20], *NORM)
    graph = chain().graph.path / "model.onnx"
    first, second = (
        PTQ("minmax", kind).quantize(graph, tmp_path / kind, calibration=[images], scheme="u8s8").read_bytes()
        for kind in ("int8", "float")
    )
    assert first == second


def test_an_unknown_choice_is_refused() -> None:
    from edgekd import registry
    from edgekd.errors import RecipeError

    with pytest.raises(RecipeError, match="found 'int4'"):
        registry.check("quantizers", "ptq", {"gates": "int4"}, "quantize")
