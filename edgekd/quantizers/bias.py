"""Bias correction: the shift of each layer's output mean that rounding its weight and its input causes, taken out of its bias.

Source: Nagel, van Baalen, Blankevoort, Welling, Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV
2019, section 4.2. Ours differs: the shift is measured on the calibration images instead of derived from BatchNorm, and that of
the rounded input is in it. Each layer sees the float network's input, so no shift is taken out twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, numpy_helper
from onnx.utils import Extractor

from edgekd import onnxfile, onnxrun
from edgekd.quantizers import qdq, surgery
from edgekd.quantizers.base import Range
from edgekd.quantizers.calibrate import Array, Batches, observed
from edgekd.quantizers.qdq import Limits


def shifts(
    model: ModelProto,
    scheme: str,
    limits: Limits,
    exact: Mapping[str, Range] | None,
    batches: Batches,
    kept: Collection[str],
    threads: int,
) -> dict[str, Array]:
    """What to add to each layer's bias: {node: [outputs]}; the ranges stay as they are.

    Args:
        model: As `qdq.prepare` gives it.
        scheme: See `qdq.written`, as the next two and `kept`.
        limits: Of all values that are rounded.
        exact: In the place of limits.
        batches: Calibration images, [B, C, H, W] each.
        kept: Names of nodes that stay in float.
        threads: CPU threads.
    """
    layers = [node for node in qdq.layers(model) if node.name not in kept]
    extractor = Extractor(model)
    pairs = {node.name: _pair(extractor, model, node, scheme, limits, exact) for node in layers}
    sums: dict[str, Array] = {}
    for values in observed(model, batches, dict.fromkeys(node.input[0] for node in layers), threads):
        for node in layers:
            seen = values[node.input[0]]
            wanted, found = (_run(part, seen, threads) for part in pairs[node.name])
            sums[node.name] = sums.get(node.name, np.zeros(wanted.shape[1])) + _mean(wanted - found) * len(seen)
    images = sum(len(batch) for batch in batches)
    return {name: total / images for name, total in sums.items()}


def shifted(model: ModelProto, added: Mapping[str, Array]) -> ModelProto:
    """The graph with those shifts added to its layers' biases; the one given is not changed."""
    changed = ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.name not in added:
            continue
        old = stored[node.input[2]] if len(node.input) > 2 and node.input[2] else np.float32(0)
        factor = next((a.f for a in node.attribute if a.name == "beta"), 1.0)  # what a Gemm multiplies its bias by
        name = f"{node.name}_corrected_bias"
        graph.initializer.append(numpy_helper.from_array((old + added[node.name] / factor).astype(np.float32), name))
        node.input[2:] = [name]
    return surgery.without_idle(changed)


def _pair(
    extractor: Extractor,
    model: ModelProto,
    node: NodeProto,
    scheme: str,
    limits: Limits,
    exact: Mapping[str, Range] | None,
) -> tuple[ModelProto, ModelProto]:
    """One layer as a graph of its own, in float and quantized."""
    alone = extractor.extract_model([node.input[0]], [node.output[0]])
    alone.metadata_props.extend(model.metadata_props)  # that its shapes are inferred
    return alone, qdq.written(alone, scheme, limits, exact=exact, only=node.name)


def _run(part: ModelProto, seen: npt.NDArray[np.float32], threads: int) -> Array:
    name, output = part.graph.input[0].name, part.graph.output[0].name
    return np.asarray(onnxrun.values(onnxfile.to_bytes(part), {name: seen}, [output], threads)[0], np.float64)


def _mean(values: Array) -> Array:
    """[B, C, ...] -> [C]."""
    return np.asarray(values.mean(axis=tuple(axis for axis in range(values.ndim) if axis != 1)))
