"""ONNX files as edgekd ships them: one file, checked, nothing of the machine that built it, facts inside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # its stubs are a package of their own
from onnx import ModelProto

from edgekd.errors import IntegrityError, StageFailed

OPSET = 18  # the floor of torch's exporter; every runtime we name takes it (RKNN stops at 19)
INPUT = "input"
OUTPUT = "logits"
PREFIX = "edgekd."  # of our own entries in metadata_props; no other entry is kept


def load(path: Path) -> ModelProto:
    """Read an ONNX file whole.

    Raises:
        IntegrityError: The file is no ONNX, or keeps its weights in a second file.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise IntegrityError(path.name, f"cannot be read as ONNX ({error})", "an ONNX file") from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise IntegrityError(path.name, "keeps its weights in a second file", "one self-contained ONNX file")
    return model


def save(model: ModelProto, path: Path) -> Path:
    """Write a model; the same model gives the same bytes."""
    path.write_bytes(to_bytes(model))
    return path


def to_bytes(model: ModelProto) -> bytes:
    """A model as the bytes of its file; the same model gives the same bytes."""
    return bytes(model.SerializeToString(deterministic=True))


def from_bytes(data: bytes) -> ModelProto:
    """The model of a file's bytes."""
    return onnx.load_model_from_string(data)


def check(model: ModelProto, where: str, opset: int = OPSET) -> None:
    """Prove that a model is what we promise: valid, one opset, `input` -> `logits`, free batch.

    Raises:
        StageFailed: It is not; says in what. (An exporter may leave another opset than asked without failing.)
    """
    found = [(entry.domain, entry.version) for entry in model.opset_import]
    if found != [("", opset)]:
        raise StageFailed(where, f"operator sets {found}", f"only ONNX operator set {opset}")
    names = [value.name for value in model.graph.input], [value.name for value in model.graph.output]
    if names != ([INPUT], [OUTPUT]):
        raise StageFailed(where, f"inputs {names[0]}, outputs {names[1]}", f"{INPUT} -> {OUTPUT}")
    for value in (*model.graph.input, *model.graph.output):
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise StageFailed(where, f"the batch of {value.name!r} is fixed", "a dynamic batch")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StageFailed(where, f"the ONNX checker refuses the graph: {error}", "a valid graph") from error


def strip(model: ModelProto) -> ModelProto:
    """Remove, in place, what the tools leave behind: stack traces with source paths, doc strings, their metadata.

    Equal networks then give equal bytes, wherever and however they were built.
    """
    graph = model.graph
    for owner in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        owner.doc_string = ""
        del owner.metadata_props[:]
    # "2.15.0+cu132": which wheel it was does not change the graph
    model.producer_version = model.producer_version.split("+")[0]
    return model


def set_metadata(model: ModelProto, facts: Mapping[str, str]) -> ModelProto:
    """Replace, in place, all metadata by `edgekd.<key>` entries, sorted by key."""
    del model.metadata_props[:]
    for key in sorted(facts):
        model.metadata_props.add(key=PREFIX + key, value=facts[key])
    return model


def metadata(model: ModelProto) -> dict[str, str]:
    """Our facts inside a model, without their prefix."""
    return {
        entry.key.removeprefix(PREFIX): entry.value for entry in model.metadata_props if entry.key.startswith(PREFIX)
    }
