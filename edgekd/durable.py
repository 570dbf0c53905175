"""Writes that a reader sees whole or not at all, that a power cut does not undo, and that no symbolic link leads elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from edgekd.errors import IntegrityError


def write_whole(path: Path, data: bytes) -> None:
    """Write a file by one rename: a reader sees the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)  # of a killed process that had the same number, or a planted link
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # of a full disk or an interrupt: half a file must not stay in the way
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file's bytes, or a folder's entries, to the disk; elsewhere than on POSIX a folder cannot be opened."""
    if os.name != "posix" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def inside(root: Path, path: Path) -> Path:
    """A path below `root` that is really there: to be asked before anything is written or deleted.

    Raises:
        IntegrityError: A part of it below `root` is a symbolic link. (`root` itself may be one: the user chose it.)
    """
    place = root
    for part in path.relative_to(root).parts:
        place = place / part
        if part == ".." or place.is_symlink():
            raise IntegrityError(
                str(place),
                "is a symbolic link: nothing is written or deleted through it",
                "a file or folder of the workspace itself",
                "remove the link; a workspace on another disk is chosen with --workspace",
            )
    return path
