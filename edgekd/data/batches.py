"""torchvision's CIFAR layout: Python-2 pickles, read by an unpickler that can build arrays and byte strings and nothing else."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.base import Images, Labels
from edgekd.errors import IntegrityError

TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILES = ("test_batch",)
META_FILE = "batches.meta"
FILES = (*TRAIN_FILES, *TEST_FILES, META_FILE)
SIDE = 32

# What a damaged or hostile pickle makes the C unpickler raise.
DAMAGED = (
    pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError,
    MemoryError, ImportError, OSError,
)  # fmt: skip


def class_names(folder: Path) -> tuple[str, ...]:
    """The label names of `batches.meta`.

    Raises:
        IntegrityError: The file is not what torchvision downloads.
    """
    names = _load(folder / META_FILE).get(b"label_names")
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, bytes | str) for name in names):
        raise IntegrityError(str(folder / META_FILE), f"label_names {names!r:.80}", "a list of names")
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names)


def read_batches(folder: Path, files: Sequence[str], classes: int) -> tuple[Images, Labels]:
    """Images [N, 32, 32, 3] and labels [N] of some batch files, in their order.

    Raises:
        IntegrityError: A file is damaged, or its pickle asks for anything but arrays and byte strings.
    """
    images, labels = [], []
    for name in files:
        batch = _load(folder / name)
        pixels, targets = batch.get(b"data"), batch.get(b"labels")
        where = str(folder / name)
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3 * SIDE * SIDE,):
            raise IntegrityError(where, "no array `data`", f"uint8 [N, {3 * SIDE * SIDE}]")
        if not isinstance(targets, list) or len(targets) != len(pixels):
            raise IntegrityError(where, "no list `labels` of the same length", f"{len(pixels)} labels")
        for row, target in enumerate(targets):
            if type(target) is not int or not 0 <= target < classes:
                raise IntegrityError(f"{where}, row {row}", f"label {target!r:.40}", f"0 to {classes - 1}")
        images.append(pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
        labels.append(np.array(targets, dtype=np.int64))
    return np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels)


def _load(file: Path) -> dict[bytes, Any]:
    """The batch's dictionary, with byte-string keys whichever Python wrote it."""
    try:
        with file.open("rb") as opened:
            content = _Restricted(opened, encoding="bytes").load()
    except DAMAGED as error:
        raise IntegrityError(
            str(file), f"corrupt or hostile pickle: {error}", "a CIFAR batch of torchvision"
        ) from error
    if not isinstance(content, dict):
        raise IntegrityError(str(file), f"a pickled {type(content).__name__}", "a dictionary")
    return {key.encode() if isinstance(key, str) else key: value for key, value in content.items()}


class _Restricted(pickle.Unpickler):
    """Finds the four names that a uint8 array and a byte string need; every other one is refused before it is imported."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy.core.multiarray", "_reconstruct"): _empty_array,
            ("numpy._core.multiarray", "_reconstruct"): _empty_array,
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _dtype,
            ("_codecs", "encode"): _bytes,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return allowed[module, name]


class _Array:
    """Stands for `numpy.ndarray` inside a pickle: calling it builds nothing."""


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes) -> Images:
    """What numpy's `_reconstruct` gives; the pixels follow in the array's state."""
    if kind is not _Array or shape != (0,):
        raise pickle.UnpicklingError("it builds something else than a plain array")
    return np.ndarray((0,), dtype=np.uint8)


def _dtype(code: bytes | str, *_: object) -> np.dtype[np.uint8]:
    if code not in (b"u1", "u1", b"|u1", "|u1"):
        raise pickle.UnpicklingError(f"it holds an array of {code!r}, not of bytes")
    return np.dtype("u1", copy=True)  # a copy: the pickle sets its state, and the original is everybody's


def _bytes(text: str | bytes, encoding: str | bytes) -> bytes:
    """Protocol 2 of Python 3 writes a byte string as latin-1 text."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("it encodes something else than a byte string")
    return text.encode("latin1")
