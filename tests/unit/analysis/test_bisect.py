"""Tensor by tensor on small graphs whose faults are known: own errors stay where they arise."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd import onnxrun
from edgekd.analysis import bisect, diverging
from edgekd.errors import UsageError

OPSET = [helper.make_opsetid("", 18)]
N, C, SIDE = 6, 4, 5


def _graph(nodes, weights, rank=4):
    shape = ["batch", C, SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", *[None] * (rank - 1)])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=OPSET, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def _weights() -> dict[str, np.ndarray]:
    random = np.random.Generator(np.random.PCG64(1))
    return {name: random.normal(0, 0.3, (C, C, 3, 3)).astype(np.float32) for name in ("w1", "w2")}


def floating(**changed: np.ndarray) -> onnx.ModelProto:
    """input -> conv w1 -> a -> relu b -> conv w2 -> c -> + b -> d -> relu -> logits."""
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1] * 4),
        helper.make_node("Add", ["c", "b"], ["d"]),
        helper.make_node("Relu", ["d"], ["logits"]),
    ]
    return _graph(nodes, {**_weights(), **changed})


def quantized(model: onnx.ModelProto, scales: dict[str, float], channels: bool = True) -> onnx.ModelProto:
    """Its QDQ form with the first ReLU gone into the range of b: weights int8, input, b and c uint8."""
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes, values = [], {}
    for name, weight in weights.items():
        scale = (np.abs(weight).max(axis=(1, 2, 3)) if channels else np.abs(weight).max()) / 127
        per = scale[:, None, None, None] if channels else scale
        parts = {"quantized": np.rint(weight / per).astype(np.int8), "scale": np.asarray(scale, np.float32)}
        parts["zero_point"] = np.zeros(np.shape(scale), np.int8)
        values |= {f"{name}_{part}": value for part, value in parts.items()}
        axis = {"axis": 0} if channels else {}
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_{part}" for part in parts], [f"{name}_dq"], **axis))

    def stepped(name: str) -> str:
        zero = 0 if name == "b" else 128
        values[f"{name}_scale"], values[f"{name}_zero_point"] = np.float32(scales[name]), np.uint8(zero)
        told = [f"{name}_scale", f"{name}_zero_point"]
        nodes.append(helper.make_node("QuantizeLinear", [name, *told], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *told], [f"{name}_s"]))
        return f"{name}_s"

    nodes.append(helper.make_node("Conv", [stepped("input"), "w1_dq"], ["b"], pads=[1] * 4))
    read = stepped("b")
    nodes.append(helper.make_node("Conv", [read, "w2_dq"], ["c"], pads=[1] * 4))
    nodes.append(helper.make_node("Add", [stepped("c"), read], ["d"]))
    nodes.append(helper.make_node("Relu", ["d"], ["logits"]))
    return _graph(nodes, values)


@pytest.fixture
def batch() -> np.ndarray:
    return np.random.Generator(np.random.PCG64(2)).normal(size=(N, C, SIDE, SIDE)).astype(np.float32)


@pytest.fixture
def scales(batch) -> dict[str, float]:
    values = onnxrun.values(bisect._bytes(floating(), ["b", "c"]), {"input": batch}, ["b", "c"])
    found = dict(zip(("b", "c"), values, strict=True))
    return {
        "b": found["b"].max() / 255,
        "c": np.abs(found["c"]).max() / 127,
        "input": np.abs(batch).max() / 127,
    }


def look(reference, candidate, batch, ranges=None):
    tensors = bisect.compare(reference, candidate, batch, onnxrun.values)
    return {found.tensor.spot.of: found for found in diverging.judge(reference, candidate, tensors, ranges)}


def test_the_same_graph_has_no_error_anywhere(batch):
    found = look(floating(), floating(), batch)
    assert list(found) == ["a", "b", "c", "d", "logits"]
    assert all(one.tensor.own_db == one.tensor.sqnr_db == 200 and not one.faults for one in found.values())


def test_an_error_is_own_where_it_arises_and_carried_where_it_does_not(batch):
    found = look(floating(), floating(w2=_weights()["w2"].swapaxes(2, 3)), batch)
    assert [name for name, one in found.items() if one.faults] == ["c"]
    assert found["c"].tensor.spot.weights == ("w2",)
    assert found["d"].tensor.sqnr_db < 20
    assert found["d"].tensor.own_db == 200
    assert "Conv with w2" in found["c"].faults[0]


def test_another_operator_is_named_beside_the_right_one(batch):
    wrong = floating()
    wrong.graph.node[1].op_type = "Identity"
    found = look(floating(), wrong, batch)
    assert [name for name, one in found.items() if one.faults] == ["b"]
    assert "Identity, not Relu" in found["b"].faults[0]


def test_two_faults_are_both_seen_and_the_first_is_first(batch):
    both = floating(w1=_weights()["w1"] * 1.5, w2=_weights()["w2"][::-1])
    found = look(floating(), both, batch)
    assert [name for name, one in found.items() if one.faults] == ["a", "c"]
    assert diverging.first(list(found.values())).tensor.spot.name == "a"


def test_a_quantized_form_is_seen_through_its_rounding(batch, scales):
    """The ReLU that the range of b has taken over is no missing operator."""
    found = look(floating(), quantized(floating(), scales), batch)
    assert list(found) == ["input", "b", "c", "d", "logits"]
    assert {name: one.faults for name, one in found.items() if one.faults} == {}
    assert all(25 < found[name].tensor.own_db < 60 for name in ("input", "b", "c"))
    assert found["d"].tensor.own_db == found["logits"].tensor.own_db == 200
    assert found["b"].tensor.spot.op == "Conv"
    assert all(abs(found[name].lost_db) < 3 for name in ("input", "b", "c"))


@pytest.mark.parametrize("factor", [4, 0.25])
@pytest.mark.parametrize("name", ["input", "b", "c"])
def test_a_stale_scale_is_found_at_its_tensor(name, factor, batch, scales):
    found = look(floating(), quantized(floating(), {**scales, name: scales[name] * factor}), batch)
    assert [tensor for tensor, one in found.items() if one.faults] == [name]
    assert found[name].lost_db > diverging.LOST_DB


def test_scales_of_training_must_be_those_and_may_be_any(batch, scales):
    odd = {**scales, "c": scales["c"] * 4}
    trained = {name: (float(np.float32(scale)), 0 if name == "b" else 128) for name, scale in odd.items()}
    assert not any(one.faults for one in look(floating(), quantized(floating(), odd), batch, trained).values())
    found = look(floating(), quantized(floating(), scales), batch, trained)
    assert [name for name, one in found.items() if one.faults] == ["c"]
    assert "trained with" in found["c"].faults[0]
    del trained["b"]
    assert look(floating(), quantized(floating(), odd), batch, trained)["b"].faults


def test_one_scale_for_all_channels_is_found_at_its_weights(batch, scales):
    found = look(floating(), quantized(floating(), scales, channels=False), batch)
    assert [name for name, one in found.items() if one.faults] == ["b", "c"]
    assert all(0 < found[name].levels <= 127 for name in ("b", "c"))
    assert "one scale for all channels" in found["b"].faults[0]


def test_wrong_int8_weights_are_found_behind_their_scale(batch, scales):
    found = look(floating(), quantized(floating(w2=_weights()["w2"].swapaxes(2, 3)), scales), batch)
    assert [name for name, one in found.items() if one.faults] == ["c"]
    assert found["c"].tensor.spot.weights == ("w2",)


def test_two_quantized_forms_are_compared_step_by_step(batch, scales):
    right = quantized(floating(), scales)
    assert not any(one.faults for one in look(right, right, batch).values())
    tensors = bisect.compare(right, quantized(floating(), {**scales, "b": scales["b"] * 2}), batch, onnxrun.values)
    first = diverging.first(diverging.judge(right, right, tensors))
    assert first.tensor.spot.of == "b"


def test_a_value_that_is_no_number_is_all_noise(batch):
    found = look(floating(), floating(w1=np.full((C, C, 3, 3), np.nan, np.float32)), batch)
    assert found["a"].tensor.own_db == -200
    assert found["a"].faults


def test_graphs_of_two_networks_are_refused(batch):
    other = floating()
    for node in other.graph.node:
        for side in (node.input, node.output):
            for place, name in enumerate(side):
                side[place] = name if name in ("input", "w1", "w2") else f"other_{name}"
    other.graph.output[0].name = "other_logits"
    with pytest.raises(UsageError, match="share no tensor"):
        bisect.compare(floating(), other, batch, onnxrun.values)


def test_the_values_of_one_image_are_counted(batch):
    names = ["a", "b", "c", "d"]
    run: Callable = onnxrun.values
    held = sum(value.nbytes for value in run(bisect._bytes(floating(), names), {"input": batch[:1]}, names))
    assert bisect.bytes_per_image(floating()) == held
