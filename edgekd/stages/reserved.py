"""Memory-mapped arrays whose disk space is taken before the first byte is written."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.errors import StageFailed

RESERVE_BYTES = 1 << 24  # written at a time where the system cannot reserve space itself


def create(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A new memory-mapped `.npy` file with its space reserved: a full disk under a sparse map kills the process (SIGBUS).

    Raises:
        StageFailed: The disk is full or the folder cannot be written.
    """
    try:
        array: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        with path.open("r+b") as file:
            _reserve(file.fileno(), path.stat().st_size)
    except OSError as error:
        path.unlink(missing_ok=True)  # what could be reserved of it would keep the disk full
        found = f"cannot write {math.prod(shape) * np.dtype(dtype).itemsize / 2**20:.0f} MiB ({error.strerror})"
        raise StageFailed(
            str(path), found, "space and the right to write", "EDGEKD_WORKSPACE on another disk"
        ) from error
    return array


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    start = os.fstat(descriptor).st_blksize  # behind the header; the file holds zeros alone there
    os.lseek(descriptor, start, os.SEEK_SET)
    for done in range(start, size, RESERVE_BYTES):
        os.write(descriptor, bytes(min(RESERVE_BYTES, size - done)))
