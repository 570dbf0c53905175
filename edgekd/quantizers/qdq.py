"""A float graph and the ranges of its activations -> the graph of one int8 scheme, written by onnxruntime's QDQ quantizer.

Source: onnxruntime.quantization (Microsoft, MIT), `QDQQuantizer`. Needs: onnxruntime.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Collection, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgekd import onnxfile
from edgekd.errors import StageFailed
from edgekd.quantizers import surgery
from edgekd.quantizers.base import Range

LAYERS = ("Conv", "Gemm")  # what is worth int8: nearly all multiply-adds
Limits = Mapping[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]  # {tensor: (lowest, highest)}, each []


@dataclass(frozen=True)
class Form:
    """What a scheme is made of.

    Attributes:
        type: Of activations. Weights are int8, symmetric, one scale for each output channel.
        lowest: Smallest integer in use.
        highest: Largest integer in use.
        symmetric: Activations have zero point 0.
        operators: Operators between which values are rounded, in a fixed order (the file's order hangs on it); none: all that
            the graph has.
        options: Further options of onnxruntime.
        configure: onnxruntime's own function that adds what one backend wants of single tensors.
        float_logits: Logits stay as the last layer gives them.
    """

    type: QuantType
    lowest: int
    highest: int
    symmetric: bool
    operators: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    configure: Callable[..., Any] | None = None
    float_logits: bool = True


def _hexagon(*args: Any, **more: Any) -> Any:
    """onnxruntime's own configuration; importing it imports torch where that is installed, which no other scheme needs."""
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

    return get_qnn_qdq_config(*args, **more)


_TENSORRT = ("Conv", "Gemm", "Add")
_NO_ROUNDING = {"Cast", "Constant", "Shape"}  # their outputs are no activations
FORMS = {
    # x86 and ARM CPUs: signed activations are 1.5 times slower than float on x86, unsigned ones 1.8 times faster
    "u8s8": Form(QuantType.QUInt8, 0, 255, False, tuple(sorted({*QLinearOpsRegistry, *QDQRegistry}))),
    # TensorRT takes no zero point and no int32 bias, and fuses best with values rounded on the inputs of its kernels alone
    "s8-trt": Form(
        QuantType.QInt8,
        -127,
        127,
        True,
        _TENSORRT,
        {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(_TENSORRT),
        },
    ),
    # Hexagon: what is not rounded on both sides runs in float on another processor, the logits included
    "qnn": Form(
        QuantType.QUInt8,
        0,
        255,
        False,
        (),
        {"MinimumRealRange": 0.0001, "DedicatedQDQPair": False, "QDQKeepRemovableActivations": False},
        _hexagon,
        float_logits=False,
    ),
}


def prepare(graph: Path) -> ModelProto:
    """The float graph with the shapes of its values.

    Raises:
        IntegrityError: The file is no ONNX.
    """
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        prepared = Path(folder) / "prepared.onnx"
        # its optimizer would write onnxruntime's whole list of domains into the file, its symbolic shapes need torch
        quant_pre_process(graph, prepared, skip_optimization=True, skip_symbolic_shape=True)
        return onnxfile.load(prepared)


def layers(model: ModelProto) -> list[NodeProto]:
    """The nodes that multiply by a stored weight, in the order of the graph."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type in LAYERS and node.input[1] in stored]


def written(
    model: ModelProto,
    scheme: str,
    limits: Limits,
    *,
    exact: Mapping[str, Range] | None = None,
    kept: Collection[str] = (),
    bare: Collection[str] = (),
    only: str | None = None,
) -> ModelProto:
    """The quantized graph, which says its scheme; logits stay as the last layer gives them.

    Args:
        model: As `prepare` gives it; is not changed.
        scheme: One of `FORMS`.
        limits: {tensor: (lowest, highest)} of at least all values that are rounded.
        exact: {tensor: its quantization} in the place of limits.
        kept: Names of nodes that stay in float; what they read may be rounded by those that made it.
        bare: Names of nodes that stay in float and read nothing that is rounded for them alone.
        only: Name of the one layer to quantize, its weight and its input, and nothing else.

    Raises:
        StageFailed: onnxruntime refuses the graph, or a value that it rounds has neither limits nor a quantization.
    """
    form = FORMS[scheme]
    here = set(_values(model))  # a part of a graph has not all values that are known
    overrides = {name: [_override(own, form)] for name, own in (exact or {}).items() if name in here}
    options: dict[str, Any] = {**form.options, "TensorQuantOverrides": _configured(model, form, overrides)}
    if only is not None:
        # its bias in float: an int32 one would be rounded, too
        options |= {"QuantizeBias": False, "OpTypesToExcludeOutputQuantization": list(LAYERS)}
    copy = ModelProto()
    copy.CopyFrom(model)
    # onnxruntime wants limits of every value, also where they are not used
    known = limits if exact is None else {**dict.fromkeys(here, _unused()), **limits}
    try:
        with redirect_stdout(io.StringIO()):
            quantizer = QDQQuantizer(
                copy,
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=form.type,
                tensors_range=TensorsData(CalibrationMethod.MinMax, {name: tuple(r) for name, r in known.items()}),
                nodes_to_quantize=[] if only is None else [only],
                nodes_to_exclude=[*kept, *bare],
                op_types_to_quantize=list(operators(model, scheme)),
                extra_options=options,
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
    except ValueError as error:
        raise StageFailed(f"quantized/{scheme}", f"onnxruntime cannot quantize the graph: {error}") from error
    made = surgery.float_logits(quantizer.model.model) if form.float_logits else quantizer.model.model
    made = surgery.bared(made, bare)
    unknown = [name for name in rounded(made) if name not in limits and name not in (exact or {})]
    if unknown:
        raise StageFailed(
            f"quantized/{scheme}", f"no range for the value {unknown[0]!r}", "one for every rounded value"
        )
    return onnxfile.set_metadata(made, {"scheme": scheme})


def operators(model: ModelProto, scheme: str) -> tuple[str, ...]:
    """The operators of a graph between which a scheme rounds, in a fixed order."""
    return FORMS[scheme].operators or tuple(sorted({node.op_type for node in model.graph.node} - _NO_ROUNDING))


def rounded(model: ModelProto) -> dict[str, Range]:
    """{value: its quantization} of a quantized graph; those that share another one's (behind a pooling) left out."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in _roundings(model):
        scale, zero = (numpy_helper.to_array(stored[name]) for name in node.input[1:3])
        found[node.input[1].removesuffix("_scale")] = Range(float(scale), int(zero))
    return found


def activations(model: ModelProto, scheme: str, kept: Collection[str] = ()) -> dict[str, str]:
    """The values of a float graph that a scheme rounds: {value: whose quantization it has}, mostly its own.

    Args:
        model: As `prepare` gives it.
        scheme: One of `FORMS`.
        kept: Names of nodes that stay in float.
    """
    made = written(model, scheme, dict.fromkeys(_values(model), _unused()), kept=kept)
    return {
        node.name.removesuffix("_QuantizeLinear"): node.input[1].removesuffix("_scale") for node in _roundings(made)
    }


def around(model: ModelProto, bare: Collection[str]) -> list[str]:
    """Names of the nodes whose outcome no layer but those reads: they stay in float with them.

    Args:
        model: As `prepare` gives it.
        bare: Names of layers that stay in float.
    """
    weighted = {node.name for node in layers(model)}
    before: dict[str, set[str]] = {}
    for node in model.graph.node:
        near = {node.name} if node.name in weighted else set().union(*(before.get(name, set()) for name in node.input))
        before |= dict.fromkeys(node.output, near)
    behind: dict[str, set[str]] = {}
    found = []
    for node in reversed(model.graph.node):
        near = set().union(*(behind.get(name, set()) for name in node.output))
        if node.name not in weighted and (near or before[node.output[0]]) <= set(bare):
            found.append(node.name)
        for name in node.input:
            behind[name] = behind.get(name, set()) | ({node.name} if node.name in weighted else near)
    return found[::-1]


def _roundings(model: ModelProto) -> list[NodeProto]:
    return [node for node in model.graph.node if node.op_type == "QuantizeLinear"]


def _values(model: ModelProto) -> list[str]:
    graph = model.graph
    return [*(value.name for value in graph.input), *(name for node in graph.node for name in node.output)]


def _unused() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Limits that nothing is made of."""
    return np.array(0, np.float32), np.array(1, np.float32)


def _configured(model: ModelProto, form: Form, overrides: dict[str, Any]) -> dict[str, Any]:
    """The quantizations that are given for single tensors, with those that the scheme's backend wants."""
    if form.configure is None:
        return overrides
    config = form.configure(
        model,
        None,  # it calibrates nothing by itself
        activation_type=form.type,
        weight_type=QuantType.QInt8,
        per_channel=True,
        init_overrides=overrides,
        add_qtype_converts=False,
    )
    return dict(config.extra_options["TensorQuantOverrides"])


def _override(given: Range, form: Form) -> dict[str, Any]:
    kind = np.uint8 if form.type == QuantType.QUInt8 else np.int8
    return {"scale": np.array(given.scale, np.float32), "zero_point": np.array(given.zero_point, kind)}
