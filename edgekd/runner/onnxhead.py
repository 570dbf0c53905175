"""The input of an ONNX file and whether it is quantized, without the package onnx: `trtexec` must be told both.

Source: onnx.proto3 (field numbers) and the wire format of Protocol Buffers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Optional, Set, Tuple

from edgekd.runner.failure import INTEGRITY, RunnerError

GRAPH = 7  # of ModelProto
NODE, INITIALIZER, INPUT = 1, 5, 11  # of GraphProto
OP_TYPE = 4  # of NodeProto
FIXED = {1: 8, 5: 4}  # wire types of a fixed length in bytes
VARINT, BYTES = 0, 2
FLOAT, HALF = 1, 10  # of TensorProto.DataType


@dataclass(frozen=True)
class Head:
    """The one input (a size of None is free; kind: FLOAT, HALF ...), and the file's precision."""

    name: str
    shape: Tuple[Optional[int], ...]
    kind: int
    quantized: bool
    half: bool


def read(path: Path) -> Head:
    """The head of a file.

    Raises:
        RunnerError: 6: it is no ONNX file of one input.
    """
    try:
        graph = next(value for field, value in _fields(memoryview(path.read_bytes())) if field == GRAPH)
        return _head(graph)
    except (StopIteration, IndexError, KeyError, ValueError, AttributeError) as error:
        found = "not an ONNX file of one input: {}".format(error or type(error).__name__)
        raise RunnerError(INTEGRITY, path.name, found, "a file that edgekd exported") from error


def _head(graph: memoryview) -> Head:
    inputs = []
    weights: Set[str] = set()
    operators: Set[str] = set()
    kinds: Set[Any] = set()
    for field, value in _fields(graph):
        if field == INPUT:
            inputs.append(value)
        elif field == INITIALIZER:
            parts = dict(_fields(value))
            weights.add(bytes(parts[8]).decode())
            kinds.add(parts.get(2))
        elif field == NODE:
            operators.update(bytes(v).decode() for f, v in _fields(value) if f == OP_TYPE)
    named = [dict(_fields(value)) for value in inputs]
    free = [parts for parts in named if bytes(parts[1]).decode() not in weights]
    if len(free) != 1:
        raise ValueError("{} inputs".format(len(free)))
    tensor = dict(_fields(dict(_fields(free[0][2]))[1]))  # ValueInfoProto.type.tensor_type
    shape = tuple(_size(value) for field, value in _fields(tensor[2]) if field == 1)
    return Head(bytes(free[0][1]).decode(), shape, int(tensor[1]), "QuantizeLinear" in operators, HALF in kinds)


def _size(dimension: memoryview) -> Optional[int]:
    value = dict(_fields(dimension)).get(1)
    return None if value is None else int(value)


def _fields(data: memoryview) -> Iterator[Tuple[int, Any]]:
    """(field number, value) of a message, in order; a fixed-length number, of which none is wanted, is None."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield field, value
        elif wire == BYTES:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("cut off")
            yield field, data[at : at + size]
            at += size
        else:
            at += FIXED[wire]
            yield field, None


def _varint(data: memoryview, at: int) -> Tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
