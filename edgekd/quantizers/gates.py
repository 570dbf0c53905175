"""Convolutions of one pooled vector an image, kept in float arithmetic with int8 weights: the gates of
squeeze-and-excitation blocks. They are few multiply-adds, and what they read are small differences between the entries of
a vector, which 8 bits over its whole range lose.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

STEPS = 127  # of an int8 weight to each side of 0


def gates(model: ModelProto) -> list[str]:
    """Names of the convolutions whose input is [batch, C, 1, 1].

    Args:
        model: With inferred shapes.
    """
    sizes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.value_info
    }
    return [
        node.name for node in model.graph.node if node.op_type == "Conv" and sizes.get(node.input[0], [])[2:] == [1, 1]
    ]


def feeding(model: ModelProto, convolutions: list[str]) -> list[str]:
    """Names of the nodes that make what those convolutions read: the pooling and the activation between two of them."""
    read = {node.input[0] for node in model.graph.node if node.name in convolutions}
    return [node.name for node in model.graph.node if set(node.output) & read]


def quantize_weights(model: ModelProto, convolutions: list[str]) -> ModelProto:
    """Store, in place, the weights of those convolutions as int8 with one scale an output channel, undone by a
    DequantizeLinear in front of each.
    """
    graph = model.graph
    weights = dict.fromkeys(node.input[1] for node in graph.node if node.name in convolutions)
    for name in weights:
        graph.node.insert(0, _stored(graph, name))
    return model


def _stored(graph: GraphProto, name: str) -> NodeProto:
    """Put the weight `name` into the graph as int8; gives the node that restores it under that name."""
    tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
    weight = numpy_helper.to_array(tensor)
    largest = np.abs(weight).max(axis=(1, 2, 3))
    scale = np.where(largest > 0, largest / STEPS, 1).astype(np.float32)
    values = np.rint(weight / scale[:, None, None, None]).astype(np.int8)
    parts: dict[str, NDArray[Any]] = {
        "quantized": values,
        "scale": scale,
        "zero_point": np.zeros(len(scale), dtype=np.int8),
    }
    graph.initializer.remove(tensor)
    graph.initializer.extend(numpy_helper.from_array(array, f"{name}_{part}") for part, array in parts.items())
    inputs = [f"{name}_{part}" for part in parts]
    return helper.make_node("DequantizeLinear", inputs, [name], f"{name}_DequantizeLinear", axis=0)
