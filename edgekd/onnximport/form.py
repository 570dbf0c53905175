"""A foreign ONNX graph brought into the form of ours: operator set, names, free batch, logits; and what had to be changed.

Nothing is proven here: whoever adopts a graph compares its answers with those of the file as it was given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, version_converter

from edgekd.errors import RecipeError
from edgekd.onnxfile import INPUT, OUTPUT
from edgekd.onnximport import rewrite
from edgekd.onnximport.read import OWN_DOMAINS, WHERE, quantized

BATCH = "batch"
IR_OF_OPSET_18 = 8
MOST_VALUES = 2**26  # in one activation of one image: 256 MiB, far above any network of an edge device
DYNAMIC = "torch.onnx.export(..., dynamic_shapes=({0: torch.export.Dim('batch')},))"


@dataclass(frozen=True)
class Wanted:
    """The images and classes that a network is to take; None = not known yet."""

    classes: int | None = None
    channels: int | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Adopted:
    """A graph in our form.

    Attributes:
        model: `input` [batch, C, H, W] -> `logits` [batch, classes], shapes inferred.
        given: The same file with its input and output renamed, else untouched: the reference.
        fixed: `given` takes one image at a time.
        ending: What was taken off the end of `given`: one of `rewrite.ENDINGS`, or empty.
        opset: Operator set of `model`.
        changes: What is not as it was given, in words.
    """

    model: ModelProto
    given: ModelProto
    fixed: bool
    ending: str
    opset: int
    changes: tuple[str, ...] = field(default=())


def adopt(model: ModelProto, name: str, wanted: Wanted, least_opset: int) -> Adopted:
    """Bring a graph into our form.

    Args:
        model: From `read.read`; it is changed.
        name: Of the file, for errors.
        wanted: What of the data is known.
        least_opset: An older operator set is converted to this one; a newer one stays.

    Raises:
        RecipeError: Not one image input and one output of logits; other channels, size or classes than wanted; a fixed
            batch that cannot be freed; answers that are no logits.
    """
    source, target = _interface(model, name)
    changes = [f"its input {source.name!r} is now {INPUT!r}"] if source.name != INPUT else []
    changes += [f"its output {target.name!r} is now {OUTPUT!r}"] if target.name != OUTPUT else []
    rewrite.rename(model, {source.name: INPUT, target.name: OUTPUT})
    given, model = model, ModelProto.FromString(model.SerializeToString())
    fixed = _require_images(next(_inputs(given)), name, wanted)
    ending = rewrite.cut_ending(model, name)  # before converting, which writes an old softmax as several operators
    model, converted = _own_opset(model, name, least_opset)
    _free(model, wanted, fixed)
    model = _inferred(model, name, wanted, fixed)
    changes += [f"operator set {converted} converted to {least_opset}"] if converted else []
    changes += [f"its last {ending} taken off: it answers with logits"] if ending else []
    changes += ["its batch of 1 made free"] if fixed else []
    return Adopted(model, given, fixed, ending, model.opset_import[0].version, tuple(changes))


def _interface(model: ModelProto, name: str) -> tuple[ValueInfoProto, ValueInfoProto]:
    inputs, outputs = list(_inputs(model)), list(model.graph.output)
    for what, found in (("input", inputs), ("output", outputs)):
        if len(found) != 1:
            names = ", ".join(value.name for value in found)
            raise RecipeError(WHERE, f"{name} has {len(found)} {what}s: {names}", f"one {what}: images in, logits out")
    for value, rank, form in ((inputs[0], 4, "[N, C, H, W]"), (outputs[0], 2, "[N, classes]")):
        kind = value.type.tensor_type
        if kind.elem_type != TensorProto.FLOAT or len(kind.shape.dim) != rank:
            found_type = TensorProto.DataType.Name(kind.elem_type).lower()
            raise RecipeError(WHERE, f"{name}: {value.name} is {found_type} {_shown(value)}", f"float {form}")
    return inputs[0], outputs[0]


def _inputs(model: ModelProto) -> Iterator[ValueInfoProto]:
    """Inputs that are no weights (files of IR version 3 list those, too)."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return (value for value in model.graph.input if value.name not in weights)


def _require_images(value: ValueInfoProto, name: str, wanted: Wanted) -> bool:
    """Whether the batch is fixed at one image; channels and size must be those of the data."""
    batch, *image = (dim.dim_value for dim in value.type.tensor_type.shape.dim)
    if batch > 1:
        raise RecipeError(WHERE, f"{name} takes {batch} images at a time", "a free batch, or a batch of 1", DYNAMIC)
    data = (wanted.channels, *(wanted.size or (None, None)))
    wrong = [f for f, w in zip(image, data, strict=True) if f and w and f != w]
    if wrong:
        hint = "channels come before height and width" if image[-1] == wanted.channels else "another data.size"
        if wanted.channels in (None, image[0]) and image[1] == image[2] > 0:
            hint = f"--set data.size={image[1]}"
        found = f"{name} takes images of {' x '.join(str(n or '?') for n in image)} (channels x height x width)"
        raise RecipeError(WHERE, found, " x ".join(str(n or "?") for n in data) + ", as the data have", hint)
    return bool(batch == 1)


def _own_opset(model: ModelProto, name: str, least: int) -> tuple[ModelProto, int]:
    """The model with ONNX's own operators of one set, not below the least; and the set before, 0 when it stays."""
    for node in model.graph.node:
        node.ClearField("domain")
    version = next((entry.version for entry in model.opset_import if entry.domain in OWN_DOMAINS), 0)
    del model.opset_import[:]
    model.opset_import.add(domain="", version=version)
    kept = list(_inputs(model))
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, IR_OF_OPSET_18)
    if version >= least:
        return model, 0
    try:
        return version_converter.convert_version(model, least), version
    except RuntimeError as error:  # also its own ConvertError
        found = f"{name} has operator set {version} and cannot be converted: {str(error).splitlines()[0][:200]}"
        raise RecipeError(WHERE, found, f"operator set {least} or later", f"export it with opset {least}") from None


def _free(model: ModelProto, wanted: Wanted, fixed: bool) -> None:
    """Write the shapes that we promise into the graph, in place: a free batch, the data's image."""
    graph = model.graph
    del graph.value_info[:]
    dims = graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_param = BATCH
    for dim, size in zip(dims[1:], (wanted.channels, *(wanted.size or (None, None))), strict=True):
        if size is not None:
            dim.dim_value = size
    graph.output[0].type.tensor_type.ClearField("shape")
    if fixed:
        rewrite.free_reshapes(model)


def _inferred(model: ModelProto, name: str, wanted: Wanted, fixed: bool) -> ModelProto:
    """The model with all shapes, `logits` [batch, classes] among them."""
    try:
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        found = f"{name} cannot take {'more than one image' if fixed else 'such images'}: {str(error)[:200]}"
        raise RecipeError(WHERE, found, "a free batch of images as the data have", DYNAMIC) from None
    for value in (*model.graph.value_info, *model.graph.output):
        size = 1
        for dim in value.type.tensor_type.shape.dim:
            size *= max(1, dim.dim_value)
        if size > MOST_VALUES:
            raise RecipeError(WHERE, f"{name}: {value.name} holds {size:,} values", f"at most {MOST_VALUES:,} an image")
    _require_logits(model, name, wanted, fixed)
    return model


def _require_logits(model: ModelProto, name: str, wanted: Wanted, fixed: bool) -> None:
    output = model.graph.output[0]
    dims = output.type.tensor_type.shape.dim
    if len(dims) == 0:
        for _ in range(2):  # its shape could not be inferred: the batch and what the data say; running it will tell
            dims.add()
    if len(dims) != 2:
        raise RecipeError(WHERE, f"{name} answers {_shown(output)}", "[N, classes]")
    if dims[0].dim_value or (fixed and dims[0].dim_param != BATCH):  # a batch of ours must be seen to arrive
        found = f"{name} answers {dims[0].dim_value} row(s) for any number of images"
        if fixed:
            found = f"{name} takes one image at a time, and a shape inside it is computed from that"
        raise RecipeError(WHERE, found, "a free batch", DYNAMIC)
    if dims[1].dim_value and wanted.classes and dims[1].dim_value != wanted.classes:
        raise RecipeError(
            WHERE, f"{name} answers for {dims[1].dim_value} classes", f"{wanted.classes}, as the data have"
        )
    dims[0].dim_param = BATCH
    if wanted.classes:
        dims[1].dim_value = wanted.classes


def require_scheme(model: ModelProto, name: str, scheme: str) -> None:
    """A file must be what the recipe says that it is: a float graph (scheme `none`) or a quantized one.

    Raises:
        RecipeError: A quantized file is to be the float graph, or the other way round.
    """
    found = quantized(model)
    if found and scheme == "none":
        raise RecipeError(
            WHERE,
            f"{name} is quantized already ({found})",
            "a float32 file",
            "--set student.scheme=u8s8, and export or bench",
        )
    if not found and scheme != "none":
        raise RecipeError(
            WHERE, f"{name} is a float32 file", f"a quantized one (student.scheme: {scheme})", "no student.scheme"
        )


def _shown(value: ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return "[" + ", ".join(dim.dim_param or str(dim.dim_value or "?") for dim in dims) + "]"
