"""The first tensor at which two graphs part, and by what: its weights, its scale, or its operators.

Source of the bounds: digits and CIFAR-10 networks of this project, figures beside each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgekd.analysis.bisect import DEQUANTIZE, QUANTIZE, Array, Tensor, is_quantized, ratio_db

# Own error of one piece. Float32: rounding leaves 115 dB and more, another operator or weight less than 60.
OWN_FP32_DB = 80.0
OWN_FP16_DB = 45.0  # 11 bits leave 60 to 70
# int8 weights and an 8-bit activation: 30 to 48 dB; wrong weights or a missing ReLU: 10 and less.
OWN_INT8_DB = 18.0
# What a scale loses to that of the tensor's own range. Calibrated on other images: 0 to 5 dB; four times too wide: 12
# more (two bits), four times too narrow: more still, for what is cut off.
LOST_DB = 8.0
WEIGHTS_DB = 6.0  # what int8 weights may add to the rounding of their activation


@dataclass(frozen=True)
class Judged:
    """A tensor with what is wrong in it.

    Attributes:
        tensor: Its figures.
        lost_db: What its scale loses to that of its own range; None where it has none, or a fixed one.
        levels: Largest level of the channel that uses fewest, of weights with one scale for all channels; else None.
        faults: One line each; empty when its own error is as small as its arithmetic allows.
    """

    tensor: Tensor
    lost_db: float | None
    levels: int | None
    faults: tuple[str, ...]

    def figures(self) -> dict[str, Any]:
        """As plain JSON values."""
        tensor = self.tensor
        return {
            "tensor": tensor.spot.of,
            "op": tensor.spot.op,
            "weights": list(tensor.spot.weights),
            "sqnr_db": tensor.sqnr_db,
            "own_db": tensor.own_db,
            "lost_db": self.lost_db,
            "levels": self.levels,
            "faults": list(self.faults),
        }


Ranges = Mapping[str, tuple[float, int]]


def judge(
    reference: ModelProto, candidate: ModelProto, tensors: Sequence[Tensor], ranges: Ranges | None = None
) -> list[Judged]:
    """Every tensor with its faults, in the order of the graph.

    Args:
        reference: What is right.
        candidate: What was compared with it.
        tensors: From `bisect.compare`.
        ranges: {tensor: (scale, zero point)} that the network was trained with: its scales must be these, and are not held
            against the tensors' own ranges. None: it was calibrated.
    """
    through = is_quantized(candidate) and not is_quantized(reference)
    bound = OWN_INT8_DB if through else OWN_FP16_DB if _is_half(candidate) else OWN_FP32_DB
    constants = {tensor.name: tensor for tensor in candidate.graph.initializer}
    coarse = _levels(candidate.graph, constants) if through else {}
    scales = _scales(candidate.graph, constants) if through else {}
    found = []
    for tensor in tensors:
        name, faults = tensor.spot.name, []
        levels = min((coarse[weight] for weight in tensor.spot.weights if weight in coarse), default=None)
        if levels is not None:  # every scheme of ours has one scale a channel
            faults.append(f"weights with one scale for all channels: one channel is left with {levels} of 127 levels")
        lost, allowed = None, bound
        if name in scales and ranges is not None:
            faults += _other_scale(scales[name], ranges.get(name))
            # a range that was learned may cut much off: that is the network's, not the file's
            trained = ratio_db(tensor.value, _rounded(tensor.value, *scales[name]))
            allowed = min(bound, trained - WEIGHTS_DB)
        elif name in scales:
            lost = _lost_db(tensor.value, *scales[name])
            filled = float(np.ptp(np.append(tensor.value, 0)) / scales[name][0] / 255)
            if lost > LOST_DB:
                faults.append(
                    f"scale {scales[name][0]:.3g} loses {lost:.1f} dB: its values span {filled:.2g} of what it covers"
                )
        if tensor.own_db < allowed and not faults:
            faults.append(f"own error {tensor.own_db:.1f} dB, below {allowed:g}: {_blamed(tensor)}")
        found.append(Judged(tensor, lost, levels, tuple(faults)))
    return found


def first(judged: Sequence[Judged]) -> Judged | None:
    """The first faulty tensor; None where noise is all there is."""
    return next((found for found in judged if found.faults), None)


def loudest(judged: Sequence[Judged]) -> Judged:
    """The tensor that adds most noise of its own."""
    return min(judged, key=lambda found: found.tensor.own_db)


def _blamed(tensor: Tensor) -> str:
    spot = tensor.spot
    return spot.op + (f" with {', '.join(spot.weights)}" if spot.weights else "")


def _is_half(model: ModelProto) -> bool:
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)


def _lost_db(value: Array, scale: float, zero_point: int, low: int, high: int) -> float:
    """dB that rounding to this scale is worse than rounding to 8 bits of its kind over the tensor's own range."""
    least, most = min(float(value.min()), 0.0), max(float(value.max()), 0.0)
    if most == least:
        return 0.0
    if low < 0 and zero_point == 0:  # of a symmetric scheme the best grid is symmetric, too
        step, zero = max(-least, most) / high, 0
    else:
        step = (most - least) / (high - low)
        zero = low + round(-least / step)
    ideal = _rounded(value, step, zero, low, high)
    return ratio_db(value, ideal) - ratio_db(value, _rounded(value, scale, zero_point, low, high))


def _rounded(value: Array, scale: float, zero_point: int, low: int, high: int) -> Array:
    return np.asarray((np.clip(np.rint(value / scale) + zero_point, low, high) - zero_point) * scale, np.float32)


def _other_scale(found: tuple[float, int, int, int], trained: tuple[float, int] | None) -> list[str]:
    if trained is None:
        return ["is quantized, and was not when the network was trained"]
    same = np.isclose(found[0], trained[0], rtol=1e-6, atol=0) and found[1] == trained[1]
    said = f"scale {found[0]:.6g} and zero point {found[1]}, trained with {trained[0]:.6g} and {trained[1]}"
    return [] if same else [said]


def _scales(graph: GraphProto, constants: Mapping[str, TensorProto]) -> dict[str, tuple[float, int, int, int]]:
    """{tensor: (scale, zero point, least level, largest)} of activations with one scale."""
    found: dict[str, tuple[float, int, int, int]] = {}
    restored = {node.input[0]: node.output for node in graph.node if node.op_type == DEQUANTIZE}
    for node in graph.node:
        if node.op_type != QUANTIZE or node.input[0] in constants or node.input[1] not in constants:
            continue
        scale = numpy_helper.to_array(constants[node.input[1]])
        if scale.size == 1:
            zero = _zero_point(node, constants)
            info = np.iinfo(zero.dtype)
            told = float(scale.item()), int(zero.item()), int(info.min), int(info.max)
            # the output keeps its name behind its DequantizeLinear, every other tensor before its QuantizeLinear
            found |= dict.fromkeys([node.input[0], *restored.get(node.output[0], ())], told)
    return found


def _zero_point(node: NodeProto, constants: Mapping[str, TensorProto]) -> npt.NDArray[np.integer[Any]]:
    there = len(node.input) > 2 and node.input[2] in constants
    return numpy_helper.to_array(constants[node.input[2]]) if there else np.zeros((), np.uint8)


def _levels(graph: GraphProto, constants: Mapping[str, TensorProto]) -> dict[str, int]:
    """{weight as the float graph calls it: largest level of the channel that uses fewest}, of those with one scale."""
    makers = {name: node for node in graph.node for name in node.output}
    found = {}
    for node in graph.node:
        stored = makers.get(node.input[1]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
        if stored is None or stored.op_type != DEQUANTIZE or stored.input[0] not in constants:
            continue
        weight = numpy_helper.to_array(constants[stored.input[0]])
        if numpy_helper.to_array(constants[stored.input[1]]).size > 1 or weight.ndim < 2:
            continue
        rows = np.moveaxis(weight.astype(np.int32) - int(_zero_point(stored, constants).item()), _axis(node), 0)
        largest = np.abs(rows.reshape(len(rows), -1)).max(axis=1)
        found[stored.input[0].removesuffix("_quantized")] = int(largest.min())
    return found


def _axis(node: NodeProto) -> int:
    """Of the output channels in a node's weights."""
    if node.op_type == "Conv":
        return 0
    turned = any(helper.get_attribute_value(a) for a in node.attribute if a.name == "transB")
    return 0 if node.op_type == "Gemm" and turned else 1
