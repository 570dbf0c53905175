"""Where in a torch network an int8 ONNX file rounds: each rounded tensor of the file found again among the network's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import ModelProto, NodeProto, numpy_helper
from torch import nn

from edgekd import onnxfile
from edgekd.errors import StageFailed
from edgekd.fit.fakequant import Activation, traced, values
from edgekd.quantizers.calibrate import observed

Array = npt.NDArray[Any]

SAME = 1e-4  # largest error / largest value: two runtimes differ by 1e-6, two layers by more than 1e-2
RENAMED = "_QuantizeLinear_Input"  # what onnxruntime's quantizer appends where it rounds an output of the graph
WHERE = "qat"


@dataclass(frozen=True)
class Placement:
    """What an int8 file rounds, in terms of a torch network.

    Attributes:
        nodes: {tensor of the file: node of the traced network whose steps it has}; several tensors may share them.
        activations: What to round, one for each node.
        weights: {module: one step for each output}.
        biases: {module: node of the activation that it reads}, of biases that the file holds in 32 bits.
    """

    nodes: Mapping[str, str]
    activations: Sequence[Activation]
    weights: Mapping[str, bool]
    biases: Mapping[str, str]


def placement(network: nn.Module, graph: Path, quantized: Path, images: npt.NDArray[np.float32]) -> Placement:
    """Find the rounded tensors of `quantized` in the network.

    Args:
        network: Float, on the CPU, in eval mode.
        graph: Its ONNX file.
        quantized: That file with QuantizeLinear and DequantizeLinear in it; activations in 8 bits, weights int8.
        images: [n, C, H, W] normalised: real ones, on which no two layers give the same values.

    Raises:
        RecipeError: The network cannot be traced.
        StageFailed: A tensor that the file rounds is not found in the network.
    """
    model = onnxfile.load(quantized)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    rounded = {_tensor(n): n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] not in constants}
    seen = values(traced(network), torch.from_numpy(images))
    shown = tensors(onnxfile.load(graph), list(rounded), images)
    nodes: dict[str, str] = {}
    owners: dict[str, str] = {}
    activations: dict[str, Activation] = {}
    for name, node in rounded.items():
        place = next((key for key, value in seen.items() if _same(value.numpy(), shown[name])), None)
        if place is None:
            raise StageFailed(WHERE, f"the file rounds {name!r}, which is no value of the torch network", *_REMEDY)
        scale, zero_point = float(constants[node.input[1]]), int(constants[node.input[2]])
        owner = owners.setdefault(node.input[1], place)  # a pooled value has the steps of what was pooled
        nodes[name] = owner
        signed = constants[node.input[2]].dtype == np.int8
        activations.setdefault(place, Activation(place, scale, zero_point, None if owner == place else owner, signed))
    layers = _layers(network, onnxfile.load(graph))
    return Placement(nodes, list(activations.values()), _weights(model, layers), _biases(model, layers, nodes))


def tensors(model: ModelProto, names: Sequence[str], images: npt.NDArray[np.float32]) -> dict[str, Array]:
    """{name: value} of tensors inside a float graph for a batch.

    Raises:
        StageFailed: The graph has no such tensor.
    """
    made = {output for node in model.graph.node for output in node.output} | {onnxfile.INPUT}
    unknown = [name for name in names if name not in made]
    if unknown:
        raise StageFailed(WHERE, f"the file rounds {unknown[0]!r}, which is no tensor of the float graph", *_REMEDY)
    return dict(next(observed(model, [images], names)))


_REMEDY = ("every rounded tensor", "remove qat from the recipe: post-training quantization")


def _tensor(node: NodeProto) -> str:
    return str(node.input[0]).removesuffix(RENAMED)


def _same(ours: Array, theirs: Array) -> bool:
    if ours.size != theirs.size:  # a flattened vector is the same value
        return False
    a, b = ours.ravel(), theirs.ravel()
    return bool(np.abs(a - b).max() <= SAME * np.abs(b).max())


def _layers(network: nn.Module, graph: ModelProto) -> dict[str, list[str]]:
    """{weight of the float graph: the modules that hold it}, found by value."""
    owned = {path: module.weight.detach().numpy() for path, module in network.named_modules() if _has_weight(module)}
    whole = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    found = {name: [path for path, own in owned.items() if np.array_equal(own, value)] for name, value in whole.items()}
    return {name: paths for name, paths in found.items() if paths}


def _weights(model: ModelProto, layers: Mapping[str, list[str]]) -> dict[str, bool]:
    """The modules whose weights the file holds in 8 bits."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    found: dict[str, bool] = {}
    for node in model.graph.node:
        held = stored.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if held is None or held.data_type != onnx.TensorProto.INT8:
            continue  # an activation, or a bias in 32 bits
        name = _plain(held.name)
        if name not in layers:
            raise StageFailed(
                WHERE, f"the file rounds the weight {name!r}, which no layer of the network has", *_REMEDY
            )
        steps = numpy_helper.to_array(stored[node.input[1]])
        found.update(dict.fromkeys(layers[name], steps.ndim == 1))
    return found


def _biases(model: ModelProto, layers: Mapping[str, list[str]], nodes: Mapping[str, str]) -> dict[str, str]:
    """The modules whose biases the file holds in 32 bits, and the value that each reads."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    restored = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    rounded = {node.output[0]: _tensor(node) for node in model.graph.node if node.op_type == "QuantizeLinear"}
    found = {}
    for node in model.graph.node:
        x, weight, bias = ([restored.get(name, "") for name in node.input] + ["", "", ""])[:3]
        if bias in stored and stored[bias].data_type == onnx.TensorProto.INT32 and rounded.get(x) in nodes:
            found.update(dict.fromkeys(layers[_plain(weight)], nodes[rounded[x]]))
    return found


def _plain(name: str) -> str:
    return name.removesuffix("_quantized")


def _has_weight(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), torch.Tensor)
