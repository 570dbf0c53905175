"""Half precision: what the file holds, that it answers alike, and that nothing overflows unseen."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd import agreement, onnxfile
from edgekd.analysis.parity import fp16_parity
from edgekd.errors import RecipeError, StageFailed
from edgekd.quantizers.base import Range
from edgekd.quantizers.fp16 import FP16, HIGHEST
from tests.quantgraphs import CLASSES, answers, build, images, stack, varied


def made(model, tmp_path, batches=None, **more):
    path = onnxfile.save(model, tmp_path / "graph.onnx")
    calibration = [images(20), images(7, seed=9)] if batches is None else batches
    return FP16().quantize(path, tmp_path / "half.onnx", calibration=calibration, scheme="fp16", **more)


@pytest.mark.parametrize("network", [varied, stack])
def test_weights_and_arithmetic_are_float16_and_both_ends_float32(network, tmp_path):
    path = made(network(), tmp_path)
    model = onnxfile.load(path)
    onnxfile.check(model, "test")
    assert {tensor.data_type for tensor in model.graph.initializer} == {TensorProto.FLOAT16}
    assert [end.type.tensor_type.elem_type for end in (*model.graph.input, *model.graph.output)] == [1, 1]
    kinds = [node.op_type for node in model.graph.node]
    assert (kinds[0], kinds[-1]) == ("Cast", "Cast") and kinds[1:-1] == [n.op_type for n in network().graph.node]
    batch = images(200, seed=3)
    assert fp16_parity(answers(network(), batch), answers(model, batch)).passed
    assert path.stat().st_size < (tmp_path / "graph.onnx").stat().st_size


def test_a_network_in_float16_is_told_from_a_wrong_one():
    batch = images(100)
    right = answers(stack(), batch)
    assert not fp16_parity(right, right * 1.01).passed
    assert not fp16_parity(right, answers(stack(seed=1), batch)).passed


def test_a_weight_that_does_not_fit_is_named_with_its_size(tmp_path):
    model = stack()
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "fc.b")
    values = np.array(numpy_helper.to_array(tensor))
    values[1] = -70_000
    tensor.CopyFrom(numpy_helper.from_array(values, "fc.b"))
    with pytest.raises(StageFailed, match=r"'fc\.b' reaches 7e\+04"):
        made(model, tmp_path)
    assert not (tmp_path / "half.onnx").exists()


def test_a_value_that_does_not_fit_is_named_with_its_size(tmp_path):
    weights = {"big": np.full((1, 1, 1, 1), 5e4, np.float32), "back": np.full((CLASSES, 1, 12, 12), 1e-6, np.float32)}
    nodes = [
        helper.make_node("Conv", ["input", "big"], ["large"], "large"),
        helper.make_node("Conv", ["large", "back"], ["small"], "small"),
        helper.make_node("Flatten", ["small"], ["logits"], "flat"),
    ]
    model = build(nodes, weights, (1, 12, 12), "large inside")
    tame, wild = np.full((2, 1, 12, 12), 0.5, np.float32), np.full((2, 1, 12, 12), 1.5, np.float32)
    made(model, tmp_path, [tame])
    with pytest.raises(StageFailed, match=r"'large' reaches 7\.5e\+04") as caught:
        made(model, tmp_path, [tame, wild])
    assert str(HIGHEST) in str(caught.value)


def test_constants_inside_nodes_are_halved_and_sizes_are_not(tmp_path):
    weights = {"scales": np.array([1, 1, 2, 2], np.float32), "w": np.ones((CLASSES, 1, 1, 1), np.float32)}
    nodes = [
        helper.make_node("Constant", [], ["half"], "half", value=numpy_helper.from_array(np.float32(0.5))),
        helper.make_node("Mul", ["input", "half"], ["a"], "mul"),
        helper.make_node("Resize", ["a", "", "scales"], ["b"], "resize", mode="nearest"),
        helper.make_node("Conv", ["b", "w"], ["c"], "conv"),
        helper.make_node("GlobalMaxPool", ["c"], ["d"], "mean"),
        helper.make_node("Flatten", ["d"], ["logits"], "flat"),
    ]
    model = build(nodes, weights, (1, 12, 12), "constants")
    found = onnxfile.load(made(model, tmp_path))
    onnxfile.check(found, "test")
    kinds = {tensor.name: tensor.data_type for tensor in found.graph.initializer}
    assert kinds == {"scales": TensorProto.FLOAT, "w": TensorProto.FLOAT16}
    assert agreement.sqnr_db(answers(model, images(5)), answers(found, images(5))) > 60


def test_ranges_and_layers_are_not_its_business(tmp_path):
    with pytest.raises(RecipeError, match="no use for the ranges"):
        made(stack(), tmp_path, ranges={"a": Range(0.1, 0)})
    with pytest.raises(RecipeError, match="all layers or none"):
        FP16().draft(tmp_path / "graph.onnx", [], "fp16")
