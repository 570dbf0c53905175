"""Where two graphs of one network part: tensor by tensor, each judged by the error that it adds itself.

The second graph is cut at every tensor that both have: what reads a tensor is given the first graph's value of it. One forward
then gives the own error of each piece, clean of what came before, and the first piece that errs too much is the cause.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from edgekd import agreement, onnxfile
from edgekd.errors import UsageError

Array = npt.NDArray[np.float32]
Names = Sequence[str]
Value = npt.NDArray[np.floating[Any]]
Run = Callable[[bytes, Mapping[str, Value], Names], list[Value]]

# a run: (model, {input: value}, tensors wanted) -> their values
GIVEN = "__given"
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


@dataclass(frozen=True)
class Spot:
    """One tensor that both graphs have.

    Attributes:
        name: In both graphs; `input` among them where the second graph quantizes it.
        seen: What the second graph's further nodes read of it: itself, or what its QuantizeLinear and DequantizeLinear leave.
        op: Operators between the tensors before and this one, in the second graph; those of the first behind "not" where they
            are others.
        weights: Names of the weights among them.
        of: The tensor whose rounded form it is; itself where it is none.
    """

    name: str
    seen: tuple[str, ...]
    op: str
    weights: tuple[str, ...]
    of: str


@dataclass(frozen=True)
class Tensor:
    """One tensor's figures.

    Attributes:
        spot: Which.
        sqnr_db: Of the whole graphs, the error of everything before it in it.
        own_db: Of the error that its own operators, weights and scale add to true inputs; EXACT_DB where there is none.
        value: The first graph's [n, ...].
    """

    spot: Spot
    sqnr_db: float
    own_db: float
    value: Array


def is_quantized(model: ModelProto) -> bool:
    """Whether a graph quantizes activations."""
    return any(node.op_type == QUANTIZE for node in model.graph.node)


def compare(reference: ModelProto, candidate: ModelProto, batch: Array, run: Run) -> list[Tensor]:
    """Every tensor that two graphs share, in the order of the second one.

    Args:
        reference: What is right.
        candidate: What is judged; a quantized form of it has the same names.
        batch: [n, C, H, W], normalised.
        run: Runs a graph; with no optimization that would melt operators together.

    Raises:
        UsageError: The graphs share no tensor names.
    """
    found = spots(reference, candidate)
    names = [spot.name for spot in found if spot.name != onnxfile.INPUT]
    if not names:
        raise UsageError("parity --tensors", "the two graphs share no tensor", "two forms of one network")
    start = {onnxfile.INPUT: batch}
    values = dict(zip(names, run(_bytes(reference, names), start, names), strict=True)) | start
    ends = [spot.seen[-1] for spot in found]
    whole = run(_bytes(candidate, ends), start, ends)
    cut, kinds = _cut(candidate, found, _quantizes(reference, candidate))
    given = {name + GIVEN: values[name].astype(kinds[name]) for name in values if name in kinds}
    wanted = [name for spot in found for name in spot.seen]
    own = dict(zip(wanted, run(_bytes(cut, wanted), {**start, **given}, wanted), strict=True))
    return [
        Tensor(
            spot,
            ratio_db(values[spot.name], total),
            min(ratio_db(values[spot.name], own[name]) for name in spot.seen),
            np.asarray(values[spot.name], np.float32),
        )
        for spot, total in zip(found, whole, strict=True)
    ]


def bytes_per_image(model: ModelProto) -> int:
    """Of all float values of a graph, for one image."""
    values = onnx.shape_inference.infer_shapes(model).graph.value_info
    shapes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values]
    return 4 * sum(int(math.prod(max(1, size) for size in shape)) for shape in shapes)


def ratio_db(reference: Value, other: Value) -> float:
    """SQNR of two tensors of one shape, within +-EXACT_DB; a value that is not finite is all noise."""
    most = agreement.EXACT_DB
    if reference.shape != other.shape or not (np.isfinite(reference).all() and np.isfinite(other).all()):
        return -most
    return float(np.clip(agreement.sqnr_db(reference.reshape(1, -1), other.reshape(1, -1)), -most, most))


def spots(reference: ModelProto, candidate: ModelProto) -> list[Spot]:
    """The float tensors that two graphs share by name, in the order of the second one."""
    through = _quantizes(reference, candidate)
    kinds, readers, makers = _kinds(candidate), _readers(candidate.graph), _makers(candidate.graph)
    theirs = {name: node for name, node in _makers(reference.graph).items() if node.op_type != "Constant"}
    common = [name for node in candidate.graph.node for name in node.output if name in theirs and kinds[name] in FLOATS]
    stops = {*common, onnxfile.INPUT}
    found = []
    if through and _behind(onnxfile.INPUT, readers) != (onnxfile.INPUT,):
        found.append(Spot(onnxfile.INPUT, _behind(onnxfile.INPUT, readers), QUANTIZE, (), onnxfile.INPUT))
    for name in common:
        ours, weights = _piece(name, makers, stops, candidate.graph)
        original, their_weights = _piece(name, theirs, stops, reference.graph)
        absorbed = [op for op in original if op not in ("Relu", "Clip")]  # a range from 0 on does their work
        same = ours == original or (through and ours == absorbed)
        op = "+".join(ours) if same else f"{'+'.join(ours)}, not {'+'.join(original)}"
        seen = _behind(name, readers) if through else (name,)
        found.append(Spot(name, seen, op or QUANTIZE, their_weights or weights, _rounded_from(name, makers)))
    return found


def _rounded_from(name: str, makers: Mapping[str, NodeProto]) -> str:
    restoring = makers[name]
    storing = makers.get(restoring.input[0]) if restoring.op_type == DEQUANTIZE else None
    if name == onnxfile.OUTPUT or storing is None or storing.op_type != QUANTIZE:
        return name
    return str(storing.input[0])


def _quantizes(reference: ModelProto, candidate: ModelProto) -> bool:
    return is_quantized(candidate) and not is_quantized(reference)


def _behind(name: str, readers: Mapping[str, list[NodeProto]]) -> tuple[str, ...]:
    """What further nodes read of a tensor."""
    stored = [q.output[0] for q in readers.get(name, ()) if q.op_type == QUANTIZE]
    restored = [dq.output[0] for q in stored for dq in readers.get(q, ()) if dq.op_type == DEQUANTIZE]
    direct = any(node.op_type != QUANTIZE for node in readers.get(name, ())) or not restored
    return (*restored, *([name] if direct else []))


def _piece(
    name: str, makers: Mapping[str, NodeProto], stops: set[str], graph: GraphProto
) -> tuple[list[str], tuple[str, ...]]:
    """(operators in order, names of weights) between the shared tensors before and this one."""
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) >= 2}
    ops: list[str] = []
    used: list[str] = []
    waiting = [name]
    while waiting:
        node = makers.get(waiting.pop())
        if node is None:
            continue
        if node.op_type not in (QUANTIZE, DEQUANTIZE, "Cast"):
            ops.insert(0, node.op_type)
        used += [source for source in node.input if source in weights and source not in used]
        waiting += [source for source in node.input if source not in stops]
    return ops, tuple(used)


def _cut(candidate: ModelProto, found: Sequence[Spot], through: bool) -> tuple[ModelProto, dict[str, npt.DTypeLike]]:
    """The graph in which what reads a shared tensor reads an input `<name>__given`, and those inputs' types.

    With `through` a tensor's own QuantizeLinear stays: what it loses is the tensor's own error.
    """
    cut = ModelProto()
    cut.CopyFrom(candidate)
    kinds, owner = _kinds(candidate), {seen: spot.name for spot in found for seen in spot.seen}
    given: dict[str, npt.DTypeLike] = {}
    for node in cut.graph.node:
        for place, source in enumerate(node.input):
            name = owner.get(source)
            if name is not None and not (through and node.op_type == QUANTIZE and source == name):
                given[name] = helper.tensor_dtype_to_np_dtype(kinds[source])
                node.input[place] = name + GIVEN
    for name, kind in given.items():
        value = helper.make_tensor_value_info(name + GIVEN, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), None)
        cut.graph.input.append(value)
    return cut, given


def _bytes(model: ModelProto, names: Sequence[str]) -> bytes:
    """A model with tensors as further outputs."""
    wider = ModelProto()
    wider.CopyFrom(model)
    there = {value.name for value in wider.graph.output}
    wider.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in there)
    return onnxfile.to_bytes(wider)


def _kinds(model: ModelProto) -> dict[str, int]:
    """{tensor: element type}, inferred."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values: Iterator[onnx.ValueInfoProto] = iter([*graph.input, *graph.value_info, *graph.output])
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    return {name: kinds.get(name, TensorProto.UNDEFINED) for node in graph.node for name in node.output} | kinds


def _makers(graph: GraphProto) -> dict[str, NodeProto]:
    return {name: node for node in graph.node for name in node.output}


def _readers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    found: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found
