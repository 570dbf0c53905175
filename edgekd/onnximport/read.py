"""Reading an ONNX file that somebody else wrote: its bytes hashed, its weights gathered, everything refused that could run code,
reach outside its folder or ask for more memory than a network of an edge device does.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # its stubs are a package of their own
from onnx import ModelProto, NodeProto, TensorProto, external_data_helper

from edgekd.artifact import canonical, sha256_file
from edgekd.errors import IntegrityError, RecipeError

MOST_BYTES = 2**31 - 1  # of file and weights together: protobuf's own limit of a whole model
OWN_DOMAINS = ("", "ai.onnx")  # two names of ONNX's own operators
QUANTIZED = (  # operators that only a quantized graph holds
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
)
WHERE = "student.onnx"
_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def digest(path: Path) -> str:
    """SHA-256, hex: of the file, and with it of the files that hold its weights when there are such.

    Raises:
        IntegrityError: It is no ONNX.
        RecipeError: Its weights lie where they must not, or are too large.
    """
    own = sha256_file(path)
    outside = _outside(_parse(path), path)
    if not outside:
        return own
    parts = {file.name: sha256_file(file) for file in outside}
    return hashlib.sha256(canonical({"": own, **parts})).hexdigest()


def read(path: Path) -> ModelProto:
    """A file with its weights inside, of ONNX's own operators alone, as the ONNX checker accepts it; nothing in it was run.

    Raises:
        IntegrityError: It is no ONNX, its weights are cut short, or the checker refuses it.
        RecipeError: It is too large, or holds what edgekd does not take: see `refuse`.
    """
    model = _parse(path)
    refuse(model, path.name)
    for file in _outside(model, path):
        _require_whole(model, file)
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, OSError) as error:
        raise IntegrityError(
            WHERE, f"{path.name}: the ONNX checker refuses it: {_short(error)}", "a valid graph"
        ) from None
    _require_inference(model, path.name)
    return model


def refuse(model: ModelProto, name: str) -> None:
    """Say no to what a chain cannot carry on, or what could hide something: custom operators, functions, branches.

    Raises:
        RecipeError: One of these is in the file.
    """
    nodes = model.graph.node
    custom = sorted({f"{node.domain}.{node.op_type}" for node in nodes if node.domain not in OWN_DOMAINS})
    if custom:
        raise _refused(
            name, f"uses operators that are not ONNX's own: {_some(custom)}", "ONNX's own; quantized in the form QDQ"
        )
    if model.functions:
        raise _refused(name, "holds functions of its own", "onnx.inliner.inline_local_functions")
    branches = sorted({node.op_type for node in nodes if any(a.HasField("g") or a.graphs for a in node.attribute)})
    if branches:
        raise _refused(name, f"holds branches or loops: {_some(branches)}", "an export with constant shapes")
    if model.graph.sparse_initializer:
        raise _refused(name, "holds sparse weights", "dense weights")
    if any(tensor.data_type in _HALF for tensor in _tensors(model)):
        raise _refused(name, "holds 16-bit floating-point weights", "an export in float32")


def constants(model: ModelProto) -> dict[str, TensorProto]:
    """What a graph holds beside its operators, by name: its weights, and the outputs of its Constant nodes."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            held = [attribute.t for attribute in node.attribute if attribute.HasField("t")]
            found |= dict(zip(node.output, held, strict=False))
    return found


def quantized(model: ModelProto) -> str:
    """What a quantized graph is made of, in words (`QuantizeLinear 12, ...`); empty for a float graph."""
    kinds = [node.op_type for node in model.graph.node if node.op_type in QUANTIZED]
    return ", ".join(f"{kind} {kinds.count(kind)}" for kind in sorted(set(kinds)))


def is_quantized(path: Path) -> bool:
    """Whether a file holds a quantized graph; it is looked at, not checked.

    Raises:
        IntegrityError: It is no ONNX.
    """
    return bool(quantized(_parse(path)))


def _parse(path: Path) -> ModelProto:
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise _refused(path.name, f"is {size:,} bytes large", "", f"at most {MOST_BYTES:,} bytes")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise IntegrityError(WHERE, f"{path.name} cannot be read as ONNX ({_short(error)})", "an ONNX file") from None
    if not model.graph.node or not model.opset_import:
        raise IntegrityError(WHERE, f"{path.name} holds no network", "an ONNX file")
    return model


def _outside(model: ModelProto, path: Path) -> list[Path]:
    """The files beside the model that hold its weights, by name.

    Raises:
        RecipeError: One is not a plain file in the same folder, or all are too large.
    """
    names = sorted({_entry(tensor, "location") for tensor in _tensors(model) if _is_outside(tensor)})
    files = [_beside(path, name) for name in names]
    total = sum(file.stat().st_size for file in (path, *files))
    if total > MOST_BYTES:
        raise _refused(path.name, f"and its weights are {total:,} bytes large", "", f"at most {MOST_BYTES:,} bytes")
    return files


def _beside(path: Path, name: str) -> Path:
    plain = PurePosixPath(name).name == name == PureWindowsPath(name).name and name not in ("", ".", "..")
    file = path.parent / name
    if not plain:
        raise _refused(path.name, f"wants its weights from {name!r}", "", "a file in the same folder")
    if file.is_symlink() or not file.exists() or not stat.S_ISREG(file.stat().st_mode):
        found = f"keeps its weights in {name}, which is no plain file beside it"
        raise _refused(path.name, found, f"copy {name} into {path.parent}", "both files in one folder")
    return file


def _require_whole(model: ModelProto, file: Path) -> None:
    """No weight may reach beyond the end of the file that holds it."""
    size = file.stat().st_size
    for tensor in _tensors(model):
        if not (_is_outside(tensor) and _entry(tensor, "location") == file.name):
            continue
        start, length = (_number(tensor, key) for key in ("offset", "length"))
        if start + length > size:
            found = f"{file.name} ends at byte {size:,}; {tensor.name} lies at {start:,} to {start + length:,}"
            raise IntegrityError(WHERE, found, "the file that was written with the model")


def _require_inference(model: ModelProto, name: str) -> None:
    """An export in training mode answers otherwise for another batch, or at random."""
    known = constants(model)
    for node in model.graph.node:
        batch = node.op_type == "BatchNormalization" and _flag(node, "training_mode")
        flag = node.input[2] if node.op_type == "Dropout" and len(node.input) > 2 else ""
        if batch or (flag and (flag not in known or onnx.numpy_helper.to_array(known[flag]).any())):
            raise _refused(name, f"was exported in training mode ({node.op_type})", "network.eval() before the export")


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every constant of a graph without branches."""
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _is_outside(tensor: TensorProto) -> bool:
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def _entry(tensor: TensorProto, key: str) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == key), "")


def _number(tensor: TensorProto, key: str) -> int:
    text = _entry(tensor, key) or "0"
    if not text.isdecimal() or len(text) > 20:
        raise IntegrityError(WHERE, f"{tensor.name}: {key} {text[:40]!r}", "a number of bytes")
    return int(text)


def _flag(node: NodeProto, name: str) -> bool:
    return any(attribute.name == name and attribute.i for attribute in node.attribute)


def _refused(name: str, found: str, hint: str, expected: str = "a network that edgekd can carry on") -> RecipeError:
    return RecipeError(WHERE, f"{name} {found}", expected, hint)


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _short(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
