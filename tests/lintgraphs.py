"""Small networks for the linter: good ones, and one that breaks each rule and no other of its family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

CHANNELS, CLASSES, SIDE = 3, 8, 8


def quantized(kind: type[Any] = np.int8, *, bias: type[Any] = np.float32, opset: int = 18) -> ModelProto:
    """Conv -> Relu -> pool with Q/DQ on the convolution's input and its weight; symmetric, per channel."""
    random = np.random.RandomState(0)
    weights = random.randint(-100, 100, (CLASSES, CHANNELS, 3, 3)).astype(np.int8)
    held = {
        "s": np.float32(0.05), "z": np.array(0, kind),
        "wq": weights, "ws": np.full(CLASSES, 0.01, np.float32), "wz": np.zeros(CLASSES, np.int8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "s", "z"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "dequantize"),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["w"], "weight", axis=0),
    ]
    if bias is np.int32:
        held |= {"bq": np.ones(CLASSES, np.int32), "bs": np.full(CLASSES, 5e-4, np.float32)}
        nodes.append(helper.make_node("DequantizeLinear", ["bq", "bs"], ["b"], "bias", axis=0))
    else:
        held["b"] = np.ones(CLASSES, np.float32)
    return _network([*nodes, *_body("d")], held, opset=opset)


def half(weights: type[Any] = np.float16) -> ModelProto:
    """The same in float16 between two Casts, as TensorRT's strongly typed networks want it."""
    random = np.random.RandomState(0)
    held = {"w": random.randn(CLASSES, CHANNELS, 3, 3).astype(weights), "b": np.ones(CLASSES, np.float16)}
    into = helper.make_node("Cast", ["input"], ["h"], "into", to=TensorProto.FLOAT16)
    out = helper.make_node("Cast", ["logits_half"], ["logits"], "out", to=TensorProto.FLOAT)
    return _network([into, *_body("h", "logits_half"), out], held)


def _body(source: str, result: str = "logits") -> list[NodeProto]:
    return [
        helper.make_node("Conv", [source, "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], [result], "flatten"),
    ]


def _network(nodes: list[NodeProto], held: dict[str, Any], opset: int = 18) -> ModelProto:
    images = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", CHANNELS, SIDE, SIDE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()]
    graph = helper.make_graph(nodes, "network", [images], [logits], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


# ---- one change each --------------------------------------------------------------------------------------------------


def changed(change: Callable[[ModelProto], None], **network: Any) -> ModelProto:
    model = quantized(**network)
    change(model)
    return model


def put(model: ModelProto, name: str, value: Any) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))


def node(model: ModelProto, name: str) -> NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def _scale_of_the_images(model: ModelProto) -> None:
    largest = helper.make_node("ReduceMax", ["input"], ["computed"], "largest", keepdims=0)
    model.graph.node.insert(0, largest)
    for name in ("quantize", "dequantize"):
        node(model, name).input[1] = "computed"


def _integer_convolution(model: ModelProto) -> None:
    conv = node(model, "conv")
    conv.op_type = "ConvInteger"
    conv.input[:] = ["q", "wq", "z"]
    conv.output[:] = ["sums"]
    cast = helper.make_node("Cast", ["sums"], ["c"], "cast", to=TensorProto.FLOAT)
    model.graph.node.insert(list(model.graph.node).index(conv) + 1, cast)


def _foreign_operator(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    node(model, "relu").op_type = "Gelu"
    node(model, "relu").domain = "com.microsoft"


def _double_sum(model: ModelProto) -> None:
    node(model, "pool").input[0] = "single"
    wide = helper.make_node("Cast", ["r"], ["double"], "wide", to=TensorProto.DOUBLE)
    narrow = helper.make_node("Cast", ["double"], ["single"], "narrow", to=TensorProto.FLOAT)
    for place, made in enumerate((wide, narrow), list(model.graph.node).index(node(model, "pool"))):
        model.graph.node.insert(place, made)


def _relu_apart(model: ModelProto) -> None:
    node(model, "relu").input[0] = "cd"
    place = list(model.graph.node).index(node(model, "relu"))
    for made in (
        helper.make_node("DequantizeLinear", ["cq", "s", "z"], ["cd"], "after"),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["cq"], "before"),
    ):
        model.graph.node.insert(place, made)


def _free_height(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"


GOOD = {
    "int8, float bias": quantized,
    "int8, fixed batch": lambda: changed(lambda m: _set_batch(m, 4)),
    "float16": half,
    "operator set 13": lambda: quantized(opset=13),
    "operator set 25": lambda: quantized(opset=25),
}
BAD: dict[str, Callable[[], ModelProto]] = {
    "trt-int32-bias": lambda: quantized(bias=np.int32),
    "trt-zero-point": lambda: changed(lambda m: put(m, "z", np.int8(3))),
    "trt-uint8": lambda: quantized(np.uint8),
    "trt-int16": lambda: quantized(np.int16, opset=21),
    "trt-computed-scale": lambda: changed(_scale_of_the_images),
    "trt-scale": lambda: changed(lambda m: put(m, "ws", np.float32([0, *[0.01] * (CLASSES - 1)]))),
    "trt-qoperator": lambda: changed(_integer_convolution),
    "trt-domain": lambda: changed(_foreign_operator),
    "trt-interface": lambda: changed(_free_height),
    "trt-float64": lambda: changed(_double_sum),
    "trt-opset": lambda: quantized(opset=26),
    "trt-mixed-types": lambda: half(np.float32),
    "trt-relu-apart": lambda: changed(_relu_apart),
}


def _set_batch(model: ModelProto, size: int) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size


def without_a_type(model: ModelProto) -> None:
    """QuantizeLinear without a zero point: ONNX says uint8, TensorRT reads int8."""
    for name in ("quantize", "dequantize"):
        del node(model, name).input[2]
