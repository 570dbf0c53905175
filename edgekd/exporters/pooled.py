"""The head of a network as compilers for NPUs know it: a mean over the whole map as GlobalAveragePool."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

AXES = ({2, 3}, {-2, -1}, {2, -1}, {-2, 3})  # of [B, C, H, W]: the two of the map


def pooled(model: ModelProto) -> ModelProto:
    """Replace, in place, every ReduceMean over a whole map, which NPUs leave to the CPU or take apart into convolutions.

    Only a mean that keeps its dimensions and feeds a Reshape or Flatten is one: the head of a classifier.
    """
    graph = model.graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for i, node in enumerate(graph.node):
        after = readers.get(node.output[0], [])
        heads = bool(after) and all(reader.op_type in ("Reshape", "Flatten") for reader in after)
        if heads and node.op_type == "ReduceMean" and _whole_map(node, stored):
            pool = helper.make_node("GlobalAveragePool", [node.input[0]], list(node.output), name=node.name)
            graph.node[i].CopyFrom(pool)
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
    return model


def _whole_map(node: NodeProto, stored: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]) -> bool:
    settings = {attribute.name: attribute for attribute in node.attribute}
    keeps = settings["keepdims"].i == 1 if "keepdims" in settings else True
    axes = stored.get(node.input[1]) if len(node.input) > 1 else None
    given = (
        list(settings["axes"].ints) if axes is None and "axes" in settings else ([] if axes is None else axes.tolist())
    )
    return keeps and set(given) in AXES
