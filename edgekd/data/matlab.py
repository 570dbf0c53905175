"""SVHN's MATLAB 5 files: `X` uint8 [32, 32, 3, N] and `y` [N, 1], digits 1 to 10.

Read by a parser of the few elements that plain arrays need. scipy's reader is not used: damaged bytes make it end the process
(segmentation fault in its compiled part, seen with 1.17).

Source: "MAT-File Format", The MathWorks, level 5.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.data.base import Images, Labels
from edgekd.errors import IntegrityError

SIDE = 32
TEN = 10  # the label of digit 0
MOST = 100_000  # images: SVHN's training part has 73,257; what unpacks to more is no SVHN
MOST_BYTES = MOST * SIDE * SIDE * 3 + 1024
EXPECTED = f"SVHN's X uint8 [{SIDE}, {SIDE}, 3, N] and y [N, 1]"

HEADER_BYTES = 128
VERSION_AND_ORDER = b"\x00\x01IM"  # level 5, little-endian: how the two files are written
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
UINT32, INT32, INT8 = 6, 5, 1  # what an array's flags, dimensions and name are written as

Element = tuple[int, memoryview]  # (its type, its bytes)


def read_digits(file: Path) -> tuple[Images, Labels]:
    """Images [N, 32, 32, 3] and labels [N], 0 to 9.

    Raises:
        IntegrityError: The file is damaged or holds something else.
    """
    try:
        arrays = dict(_arrays(file.read_bytes()))
    except (ValueError, OSError, struct.error, zlib.error) as error:
        raise IntegrityError(str(file), f"corrupt MATLAB file: {error}", EXPECTED) from error
    pixels, digits = arrays.get("X", np.empty(0)), arrays.get("y", np.empty(0))
    n = pixels.shape[-1]
    if pixels.dtype != np.uint8 or pixels.shape != (SIDE, SIDE, 3, n) or digits.shape != (n, 1) or not n:
        found = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items()) or "no array"
        raise IntegrityError(str(file), found[:200], EXPECTED)
    wrong = np.flatnonzero(~np.isin(digits.ravel(), range(1, TEN + 1)))
    if len(wrong):
        raise IntegrityError(f"{file}, row {wrong[0]}", f"label {digits[wrong[0], 0]}", f"1 to {TEN}")
    return np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)), digits.ravel().astype(np.int64) % TEN


def _arrays(content: bytes) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """The numeric arrays of a file, by name."""
    if content[HEADER_BYTES - len(VERSION_AND_ORDER) : HEADER_BYTES] != VERSION_AND_ORDER:
        raise ValueError("it is not of MATLAB 5, little-endian")
    for kind, payload in _elements(memoryview(content)[HEADER_BYTES:]):
        if kind == COMPRESSED:
            ((kind, payload),) = _elements(_unpacked(payload))
        if kind != MATRIX:
            raise ValueError(f"an element of type {kind} where an array should be")
        parts = list(_elements(payload))
        if [kind for kind, _ in parts[:3]] != [UINT32, INT32, INT8] or len(parts) != 4 or parts[3][0] not in NUMBERS:
            raise ValueError("it holds something else than plain arrays")
        shape = tuple(np.frombuffer(parts[1][1], "<i4").tolist())
        numbers = np.frombuffer(parts[3][1], NUMBERS[parts[3][0]])
        if min(shape, default=0) < 0:
            raise ValueError(f"an array of shape {shape}")
        yield bytes(parts[2][1]).decode("ascii"), numbers.reshape(shape, order="F")


def _unpacked(payload: memoryview) -> memoryview:
    """A compressed element, unpacked as far as SVHN goes: a small file can hold terabytes of zeros."""
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(payload, MOST_BYTES)
    if not unpacker.eof:
        raise ValueError(f"an array is cut short, or unpacks to more than {MOST:,} images")
    return memoryview(content)


def _elements(content: memoryview) -> Iterator[Element]:
    """The elements of a run of bytes: (type, size) and the bytes, each padded to 8; up to 4 bytes share the first 8."""
    at = 0
    while at < len(content):
        (word,) = struct.unpack_from("<I", content, at)
        if word >> 16:
            kind, size, start, step = word & 0xFFFF, word >> 16, at + 4, 8
        else:
            (size,) = struct.unpack_from("<I", content, at + 4)
            kind, start = word, at + 8
            step = 8 + (size if kind == COMPRESSED else -(-size // 8) * 8)
        if start + size > len(content) or (word >> 16 and size > 4):
            raise ValueError(f"an element of {size} bytes where {len(content) - start} are left")
        yield kind, content[start : start + size]
        at += step
