"""Rules of family `trt`: what TensorRT's ONNX parser refuses, or takes for something else without a word.

Source: TensorRT documentation, Working with Quantized Types and ONNX Opset Guide (NVIDIA); each rule was seen with the parser
of TensorRT-RTX 1.7. Needs: onnx.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto

from edgekd import trtcheck
from edgekd.lint.base import Graph, Rule, name_of
from edgekd.onnxfile import INPUT, OUTPUT
from edgekd.onnximport.read import OWN_DOMAINS, constants

OPSETS = range(13, 26)  # 13 brought scales per channel; 25 is the last that TensorRT 11 documents
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
QOPERATORS = (
    "QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear",
)  # fmt: skip
ONE_TYPE = (  # operators whose float inputs must have one type
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "Concat", "Clip", "Max", "Min", "Sum", "PRelu",
)  # fmt: skip
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def _stored(graph: Graph, node: NodeProto) -> int:
    """The integer type on the quantized side of a QuantizeLinear or DequantizeLinear."""
    if node.op_type == DEQUANTIZE:
        return graph.type_of(node, 0)
    named = next((int(a.i) for a in node.attribute if a.name == "output_dtype"), 0)
    return named or graph.type_of(node, 2) or TensorProto.UINT8  # what ONNX says of a node that names no type


def _storing(*kinds: int) -> Callable[[Graph], list[str]]:
    """Places of a rule against some types on the quantized side."""
    return lambda graph: [name_of(n) for n in graph.of(QUANTIZE, DEQUANTIZE) if _stored(graph, n) in kinds]


def _zero_points(graph: Graph) -> list[str]:
    points = [(node, graph.constant(node, 2)) for node in graph.of(QUANTIZE, DEQUANTIZE)]
    return [name_of(node) for node, point in points if point is not None and np.any(point)]


def _computed_scales(graph: Graph) -> list[str]:
    nodes = graph.of(QUANTIZE, DEQUANTIZE)
    return [name_of(n) for n in nodes if any(name and name not in graph.constants for name in n.input[1:])]


def _scales(graph: Graph) -> list[str]:
    scales = [(node, graph.constant(node, 1)) for node in graph.of(QUANTIZE, DEQUANTIZE)]
    return [name_of(node) for node, scale in scales if scale is not None and not np.all(scale > 0)]


def _foreign(graph: Graph) -> list[str]:
    sets = [f"operator set {o.domain}" for o in graph.model.opset_import if o.domain not in OWN_DOMAINS]
    return sets + [f"{name_of(n)} ({n.domain})" for n in graph.nodes if n.domain not in OWN_DOMAINS]


def _opset(graph: Graph) -> list[str]:
    found = [o.version for o in graph.model.opset_import if o.domain in OWN_DOMAINS]
    return [f"operator set {version}" for version in found if version not in OPSETS]


def _interface(graph: Graph) -> list[str]:
    held = constants(graph.model)
    inputs = [value for value in graph.model.graph.input if value.name not in held]
    outputs = list(graph.model.graph.output)
    wrong = [f"inputs {[value.name for value in inputs]}"] if [value.name for value in inputs] != [INPUT] else []
    wrong += [f"outputs {[value.name for value in outputs]}"] if [value.name for value in outputs] != [OUTPUT] else []
    return wrong + [f"{value.name} {_dims(value)}" for value in inputs if not _images(value)]


def _dims(value: ValueInfoProto) -> list[int | str]:
    return [dim.dim_value or dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim]


def _images(value: ValueInfoProto) -> bool:
    """Whether an input is [N, C, H, W] with nothing but N free."""
    dims = _dims(value)
    return len(dims) == 4 and all(isinstance(size, int) for size in dims[1:])


def _doubles(graph: Graph) -> list[str]:
    return sorted(name for name, kind in graph.types.items() if kind == TensorProto.DOUBLE)


def _mixed(graph: Graph) -> list[str]:
    def kinds(node: NodeProto) -> set[int]:
        return {graph.type_of(node, place) for place in range(len(node.input))} & {*FLOATS}

    return [name_of(node) for node in graph.of(*ONE_TYPE) if len(kinds(node)) > 1]


def _before_relu(graph: Graph) -> list[str]:
    """Convolutions whose sum is quantized before its ReLU."""
    made = {output: node for node in graph.nodes for output in node.output}
    found = []
    for relu in graph.of("Relu"):
        chain = [relu]
        while len(chain) < 4 and chain[-1].input[0] in made:
            chain.append(made[chain[-1].input[0]])
        if [node.op_type for node in chain[1:]] == [DEQUANTIZE, QUANTIZE, "Conv"]:
            found.append(name_of(chain[3]))
    return found


prove = trtcheck.build

SCHEME = "quantize with scheme s8-trt (edgekd export --format tensorrt-int8)"

RULES = (
    Rule(
        "trt-int32-bias",
        "int32 behind DequantizeLinear, as onnxruntime quantizes a bias",
        "the parser refuses it: such an input must have 8 bits or less",
        f"keep biases in float: {SCHEME}",
        _storing(TensorProto.INT32),
    ),
    Rule(
        "trt-zero-point",
        "a zero point that is not 0",
        "TensorRT quantizes symmetrically alone and refuses it",
        f"use symmetric ranges: {SCHEME}",
        _zero_points,
    ),
    Rule(
        "trt-uint8",
        "uint8 as quantized type (also where QuantizeLinear names none)",
        "the parser reads it as int8 with a warning at most: every value above 127 is lost",
        f"use int8: {SCHEME}",
        _storing(TensorProto.UINT8),
    ),
    Rule(
        "trt-int16",
        "16 bits as quantized type",
        "TensorRT has no such type",
        f"use int8: {SCHEME}",
        _storing(TensorProto.INT16, TensorProto.UINT16),
    ),
    Rule(
        "trt-computed-scale",
        "a scale or zero point that is computed in the graph",
        "it must be a constant; the parser of TensorRT-RTX 1.7 dies of it",
        f"calibrate: {SCHEME}",
        _computed_scales,
    ),
    Rule(
        "trt-scale",
        "a scale that is not above 0",
        "the parser refuses it",
        "give a channel of zeros any positive scale",
        _scales,
    ),
    Rule(
        "trt-qoperator",
        "integer arithmetic as an operator of its own",
        "TensorRT knows float operators between QuantizeLinear and DequantizeLinear alone",
        f"use the QDQ form: {SCHEME}",
        lambda graph: [name_of(node) for node in graph.of(*QOPERATORS)],
    ),
    Rule(
        "trt-domain",
        "operators of another domain than ONNX's own",
        "the parser looks them up by name as if they were ONNX's, or asks for a plugin",
        "export without a runtime's optimizer, which writes its own operators and domains",
        _foreign,
    ),
    Rule(
        "trt-interface",
        f"not images {INPUT!r} [N, C, H, W] in and {OUTPUT!r} out, with nothing but N free",
        "an engine is built for one range of batches, and its callers go by these names",
        "rename them and fix the image's size",
        _interface,
    ),
    Rule(
        "trt-float64",
        "float64",
        "TensorRT has no such type: it is narrowed to float32 without a word",
        "cast to float32 before the export",
        _doubles,
    ),
    Rule(
        "trt-opset",
        f"an operator set outside {OPSETS[0]} to {OPSETS[-1]}",
        "the parser is not documented for it",
        "export with operator set 18",
        _opset,
    ),
    Rule(
        "trt-mixed-types",
        "float inputs of two types",
        "TensorRT's networks are strongly typed: half and float meet in a Cast alone",
        "store the weights in the type of the arithmetic, or put a Cast before the node",
        _mixed,
    ),
    Rule(
        "trt-relu-apart",
        "a convolution's sum is quantized before its ReLU",
        "by TensorRT's placement rules the two are then not fused",
        f"put Q/DQ on the inputs of Conv, Gemm and Add alone: {SCHEME}",
        _before_relu,
        "warning",
    ),
)
