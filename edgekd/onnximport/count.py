"""Parameters and multiply-accumulates of an ONNX graph, float or quantized."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnx import ModelProto, NodeProto, TensorProto

from edgekd.onnximport.read import constants

_WEIGHT = {  # operator -> which of its inputs is the weight
    "Conv": 1, "ConvInteger": 1, "ConvTranspose": 1, "QLinearConv": 3,
    "Gemm": 1, "MatMul": 1, "MatMulInteger": 1, "QLinearMatMul": 3,
}  # fmt: skip
_NO_WEIGHT = {  # operator -> which of its inputs are scales and zero points, or no numbers of the network at all
    "QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "ConvInteger": (2, 3), "MatMulInteger": (2, 3),
    "QLinearConv": (1, 2, 4, 5, 6, 7), "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "Reshape": (1,), "Expand": (1,), "Pad": (1, 2, 3), "Slice": (1, 2, 3, 4), "Clip": (1, 2), "Resize": (1, 2, 3),
    "ReduceMean": (1,), "Unsqueeze": (1,), "Squeeze": (1,), "Split": (1,), "Gather": (1,),
}  # fmt: skip

_NO_NUMBERS = (TensorProto.INT64, TensorProto.BOOL)  # shapes, axes, flags


def count(model: ModelProto) -> tuple[int, int | None]:
    """(parameters, MACs) for one image: convolutions and matrix products, as `edgekd.models.count` counts them.

    Args:
        model: With the shapes of its tensors inferred. A BatchNorm that was folded into a convolution is one bias there.

    Returns:
        MACs are None where a shape that they hang on is not known.
    """
    weights = constants(model)
    nodes = model.graph.node
    idle = {node.input[i] for node in nodes for i in _NO_WEIGHT.get(node.op_type, ()) if i < len(node.input)}
    used = {name for node in nodes for name in node.input}
    parameters = sum(
        math.prod(tensor.dims)
        for name, tensor in weights.items()
        if name in used - idle and tensor.data_type not in _NO_NUMBERS
    )
    shapes = _shapes(model) | {name: list(tensor.dims) for name, tensor in weights.items()}
    macs = [_macs(node, shapes) for node in nodes if node.op_type in _WEIGHT]
    return parameters, None if None in macs else sum(part for part in macs if part is not None)


def _macs(node: NodeProto, shapes: Mapping[str, Sequence[int]]) -> int | None:
    weight = shapes.get(node.input[_WEIGHT[node.op_type]])
    taps = shapes.get(node.input[0] if node.op_type == "ConvTranspose" else node.output[0])
    if weight is None or taps is None:
        return None
    if "Conv" in node.op_type:
        return math.prod(taps) * math.prod(weight[1:])
    turned = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
    return math.prod(taps) * (weight[-1] if turned else weight[-2] if len(weight) > 1 else weight[0])


def _shapes(model: ModelProto) -> dict[str, list[int]]:
    """Known shapes, a free first dimension (the batch) as 1."""
    found = {}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if not value.type.tensor_type.HasField("shape"):
            continue
        dims = value.type.tensor_type.shape.dim
        sizes = [1 if i == 0 and not dim.dim_value else dim.dim_value for i, dim in enumerate(dims)]
        if all(sizes):
            found[value.name] = sizes
    return found
