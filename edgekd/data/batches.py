"""torchvision's CIFAR layout: Python-2 pickles, read by an unpickler that can build arrays and byte strings and nothing else."""

from __future__ import annotations

import pickle
import reprlib  # a pickle can hold a list in a list so often that its full text never ends
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.console import Console
from edgekd.data.base import Allocate, Decoded, Images, Labels, Located, locate_files, places
from edgekd.data.classnames import check_class_names
from edgekd.data.images import place_arrays
from edgekd.data.layouts import either, find_parquet
from edgekd.errors import IntegrityError

SIDE = 32

# What a damaged or hostile pickle makes the C unpickler raise.
DAMAGED = (
    pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError,
    MemoryError, ImportError, OSError,
)  # fmt: skip


@dataclass(frozen=True)
class BatchFiles:
    """A set of batch files.

    Attributes:
        folder: Its name.
        train: Names of the training files, in order.
        test: Likewise.
        meta: Name of the file with the class names.
        labels: Key of the labels in a batch.
        names: Key of the class names in `meta`.
    """

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels: bytes
    names: bytes

    @property
    def files(self) -> tuple[str, ...]:
        """Every file."""
        return (*self.train, *self.test, self.meta)


def locate_batches(name: str, form: BatchFiles, roots: Sequence[Path]) -> Located:
    """Find Parquet in folder `name`, or batch files there or beside it; see `DataSource.locate`."""
    folders = places(name, roots)
    beside = [place / form.folder for place in folders] + list(places(form.folder, roots))
    folder = next((place for place in beside if all((place / file).is_file() for file in form.files)), None)
    own = None
    if folder is not None:
        own = locate_files(name, folder, [folder / file for file in form.files], "torchvision")
    wanted = f"*.parquet or {form.folder}'s {len(form.files)} files"
    return either(name, find_parquet(name, folders), own, [*folders, *beside], wanted)


def decode_batches(
    form: BatchFiles, located: Located, size: int | None, resize: str | None, console: Console, allocate: Allocate
) -> Decoded:
    """Read batch files that `locate_batches` found; see `DataSource.decode`.

    Raises:
        IntegrityError: A file is damaged, or its pickle asks for anything but arrays and byte strings.
    """
    classes = _class_names(located.folder, form)
    read = {
        split: _read(located.folder, files, form.labels, len(classes))
        for split, files in (("train", form.train), ("test", form.test))
    }
    splits, photos = place_arrays(read, size, resize, allocate)
    return Decoded(classes, splits, "the source's own train, test", located.layout, photos)


def _class_names(folder: Path, form: BatchFiles) -> tuple[str, ...]:
    where = str(folder / form.meta)
    names = _load(folder / form.meta).get(form.names)
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, bytes | str) for name in names):
        raise IntegrityError(where, f"{form.names.decode()} {reprlib.repr(names)}", "a list of names")
    read = tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names)
    check_class_names(read, where)
    return read


def _read(folder: Path, files: Sequence[str], key: bytes, classes: int) -> tuple[Images, Labels]:
    """Images [N, 32, 32, 3] and labels [N] of some batch files, in their order."""
    images, labels = [], []
    for name in files:
        batch = _load(folder / name)
        pixels, targets = batch.get(b"data"), batch.get(key)
        where = str(folder / name)
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3 * SIDE * SIDE,):
            raise IntegrityError(where, "no array `data`", f"uint8 [N, {3 * SIDE * SIDE}]")
        if not isinstance(targets, list) or len(targets) != len(pixels):
            raise IntegrityError(where, f"no list `{key.decode()}` of the same length", f"{len(pixels)} labels")
        for row, target in enumerate(targets):
            if type(target) is not int or not 0 <= target < classes:
                raise IntegrityError(f"{where}, row {row}", f"label {reprlib.repr(target)}", f"0 to {classes - 1}")
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
