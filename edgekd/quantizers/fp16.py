"""Half precision: float16 weights and arithmetic, float32 input and logits.

Source: IEEE 754-2008, binary16; the form that TensorRT's strongly typed networks take (the file's types are the precision).
Needs: nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgekd import onnxfile
from edgekd.errors import RecipeError, StageFailed
from edgekd.quantizers import qdq
from edgekd.quantizers.base import Judge, Quantizer, Range
from edgekd.quantizers.calibrate import observed

HIGHEST = 65504  # of float16
_FLOAT32_INPUTS = {"Resize": (1, 2)}  # operator -> inputs that ONNX wants in float32 whatever the data is
_INSIDE_INPUT, _INSIDE_OUTPUT = "input_float16", "logits_float16"


class FP16(Quantizer):
    """Half-precision graph: half the file, and twice the speed or more where the device has it in hardware; not on x86.

    Every value is looked at on the calibration images: one that float16 cannot hold is refused.
    """

    VERSION = 1
    schemes = ("fp16",)

    def quantize(
        self,
        graph: Path,
        out: Path,
        *,
        calibration: Iterable[npt.NDArray[np.float32]],
        scheme: str,
        judge: Judge | None = None,
        ranges: Mapping[str, Range] | None = None,
    ) -> Path:
        """Write the half-precision graph."""
        self.require(scheme)
        if ranges is not None:
            raise RecipeError("quantize.use", "fp16 has no use for the ranges of an int8 network", "ptq")
        source = qdq.prepare(graph)
        made = halved(source)
        images = [batch for batch in calibration if len(batch)]
        _refuse_overflow(source, made, images, 1 if judge is None else judge.threads)
        return onnxfile.save(made, out)


def halved(model: ModelProto) -> ModelProto:
    """The graph in float16 between a Cast behind `input` and one before `logits`; the one given is not changed.

    Raises:
        StageFailed: A weight is too large.
    """
    made = ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    del graph.value_info[:]  # their types are float32
    single = {n.input[i] for n in graph.node for i in _FLOAT32_INPUTS.get(n.op_type, ()) if i < len(n.input)}
    for tensor in graph.initializer:
        if tensor.name not in single:
            _halve(tensor, tensor.name)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and not single & set(node.output):
                _halve(attribute.t, node.output[0])
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
        node.input[:] = [_INSIDE_INPUT if name == onnxfile.INPUT else name for name in node.input]
        node.output[:] = [_INSIDE_OUTPUT if name == onnxfile.OUTPUT else name for name in node.output]
    begin = helper.make_node("Cast", [onnxfile.INPUT], [_INSIDE_INPUT], "input_Cast", to=TensorProto.FLOAT16)
    end = helper.make_node("Cast", [_INSIDE_OUTPUT], [onnxfile.OUTPUT], "logits_Cast", to=TensorProto.FLOAT)
    graph.node.insert(0, begin)
    graph.node.append(end)
    return made


def _halve(tensor: TensorProto, name: str) -> None:
    if tensor.data_type != TensorProto.FLOAT:
        return
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max()) if values.size else 0.0
    # an infinite bound (of a Clip without an end) stays infinite
    if np.isfinite(largest) and largest > HIGHEST:
        raise _overflow(f"the weight {name!r}", largest)
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))


def _refuse_overflow(source: ModelProto, made: ModelProto, images: list[npt.NDArray[np.float32]], threads: int) -> None:
    """Raise for the first value, in the order of the graph, that is finite in float32 and not in float16."""
    names = [name for node in made.graph.node for name in node.output if name != onnxfile.OUTPUT]
    for start, values in enumerate(observed(made, images, names, threads)):
        for name in names:
            if values[name].dtype != np.float16 or np.isfinite(values[name]).all():
                continue
            inner = {_INSIDE_INPUT: onnxfile.INPUT, _INSIDE_OUTPUT: onnxfile.OUTPUT}.get(name, name)
            single = next(observed(source, images[start:], [inner], threads))[inner]
            raise _overflow(f"the value {inner!r}", float(np.abs(single).max()))


def _overflow(what: str, largest: float) -> StageFailed:
    return StageFailed(
        "quantized/fp16",
        f"{what} reaches {largest:.4g}",
        f"at most {HIGHEST}, the largest number of float16",
        "an int8 target, or float32: edgekd export --format onnx",
    )
