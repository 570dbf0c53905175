"""One maker at a time: a lock file that the system lets go when its holder dies, however it dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from edgekd.durable import inside
from edgekd.errors import StageFailed


@contextmanager
def held(root: Path, path: Path, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold the lock of a name while the block runs.

    Args:
        root: The workspace; below it no symbolic link is followed.
        path: The lock file; its stem names the work in errors.
        waiting: Called before another process is waited for; None: it is not waited for.

    Raises:
        StageFailed: `waiting` is None and another process holds the lock.
    """
    inside(root, path).parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if waiting is None:
            busy = "another process is making it"
            raise StageFailed(path.stem, busy, "no other process at work", "wait for it") from error
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
