"""Cross-layer equalization: neighbouring layers' weights of like size, channel by channel; the float network stays the same.

Source: Nagel, van Baalen, Blankevoort, Welling, Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV
2019, section 4.1, equations 7 to 11. Ours differs: a clipped ReLU is left as it is (the paper puts ReLU in its place, which
is another network), and so are the layers around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, numpy_helper

ROUNDS = 20  # over all pairs; most networks stand still after 5
STILL = 1e-3  # largest change of a channel's factor at which they do
Weights = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Pair:
    """Two convolutions with nothing but a ReLU between them, read by nobody else.

    Attributes:
        first: Makes the channels.
        second: Reads them.
        groups: Of the second.
    """

    first: NodeProto
    second: NodeProto
    groups: int


def equalized(model: ModelProto) -> ModelProto:
    """The same network with equalized weights; the graph given is not changed."""
    changed = ModelProto()
    changed.CopyFrom(model)
    weights = {tensor.name: np.array(numpy_helper.to_array(tensor)) for tensor in changed.graph.initializer}
    found = pairs(changed)
    for _ in range(ROUNDS):
        if max((_balance(pair, weights) for pair in found), default=0.0) < STILL:
            break
    touched = {name for pair in found for node in (pair.first, pair.second) for name in node.input[1:] if name}
    for tensor in changed.graph.initializer:
        if tensor.name in touched:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return changed


def pairs(model: ModelProto) -> list[Pair]:
    """All of a graph, in its order."""
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    readers: dict[str, list[NodeProto]] = {output.name: [NodeProto()] for output in graph.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    alone = {name for name in stored if len(readers.get(name, [])) == 1}  # a shared weight cannot be scaled for one
    found = []
    for node in graph.node:
        if not _scalable(node, alone):
            continue
        after = readers.get(node.output[0], [])
        if len(after) == 1 and after[0].op_type == "Relu":
            after = readers.get(after[0].output[0], [])
        if len(after) == 1 and _scalable(after[0], alone):
            groups = next((a.i for a in after[0].attribute if a.name == "group"), 1)
            found.append(Pair(node, after[0], groups))
    return found


def _scalable(node: NodeProto, alone: set[str]) -> bool:
    return node.op_type == "Conv" and all(name in alone for name in node.input[1:] if name)


def _balance(pair: Pair, weights: Weights) -> float:
    """Divide the first's channels by s and multiply the second's by it, s = sqrt(r1 / r2) (equation 11); gives max |log s|."""
    first, second = weights[pair.first.input[1]], weights[pair.second.input[1]]
    shape = (pair.groups, len(second) // pair.groups, second.shape[1], -1)
    split = second.reshape(shape)  # [group, output, input of the group, kernel]
    above = np.abs(first).reshape(len(first), -1).max(axis=1)
    below = np.abs(split).max(axis=(1, 3)).reshape(-1)
    live = (above > 0) & (below > 0)  # a dead channel has no size
    scale = np.where(live, np.sqrt(above / np.where(live, below, 1)), 1).astype(np.float32)
    scale = np.where(scale > 0, scale, np.float32(1))
    weights[pair.first.input[1]] = first / scale.reshape(-1, *(1,) * (first.ndim - 1))
    if len(pair.first.input) > 2 and pair.first.input[2]:
        weights[pair.first.input[2]] = weights[pair.first.input[2]] / scale
    weights[pair.second.input[1]] = (split * scale.reshape(pair.groups, 1, -1, 1)).reshape(second.shape)
    return float(np.abs(np.log(scale)).max())
