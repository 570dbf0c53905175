"""Files that are there whole or not at all: a kill, a full disk or a power cut leaves what was there before."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Any, Callable

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

PART = ".part"  # what a file is called while it is written


def text(path: Path, content: str) -> None:
    """A text file in UTF-8."""
    write(path, lambda file: file.write(content.encode("utf-8")))


def array(path: Path, values: npt.NDArray[Any]) -> None:
    """A .npy file."""
    write(path, lambda file: np.save(file, values, allow_pickle=False))


def arrays(path: Path, **values: Any) -> None:
    """A .npz file, not packed."""
    write(path, lambda file: np.savez(file, **values))


def write(path: Path, fill: Callable[[IO[bytes]], Any]) -> None:
    """A file that `fill` writes, under its name only once it is on the disk.

    Raises:
        OSError: It cannot be written; what was there under that name still is.
    """
    part = path.with_name(path.name + PART)
    try:
        with part.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
