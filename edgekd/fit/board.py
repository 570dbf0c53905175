"""Notes between the processes of one run, kept by torchrun: they outlive the process that wrote them, and waiting for one costs nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgekd.errors import EdgekdError, StageFailed, revived

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

PAUSE = 0.1  # seconds between two looks: a signal ends the wait at once, and a benchmark beside it is not disturbed
FAILED, TOLD = "failed", "told"


class Board:
    """The notes of one run.

    Args:
        store: A key-value store that every process reaches.
        world: Number of processes.
    """

    def __init__(self, store: Store, world: int) -> None:
        self.store, self.world = store, world
        self.posted = self.taken = self.met = 0
        self.ended = False

    def post(self, note: str) -> None:
        """Write the next note; every other process takes each note once, in order."""
        self.posted += 1
        with _within_reach():
            self.store.set(f"note/{self.posted}", note)

    def dismiss(self) -> None:
        """Write the last note: the other processes are not needed any more."""
        if not self.ended:
            self.ended = True
            self.post("")

    def take(self) -> str:
        """Wait for the next note; empty when it was the last.

        Raises:
            EdgekdError: What ended another process.
        """
        self.taken += 1
        key = f"note/{self.taken}"
        with _within_reach():
            self._wait(lambda: self.store.check([key]))
            return str(self.store.get(key).decode())

    def meet(self) -> str:
        """Wait until every process is here; gives a name that no meeting before had.

        Raises:
            EdgekdError: What ended another process.
        """
        self.met += 1
        key = f"meeting/{self.met}"
        with _within_reach():
            self.store.add(key, 1)
            self._wait(lambda: self.store.add(key, 0) >= self.world)
        return key

    def tell(self, error: EdgekdError | KeyboardInterrupt) -> EdgekdError | KeyboardInterrupt:
        """Let every process end with this; gives what was told first, which may be another's."""
        try:
            said = self.store.compare_set(FAILED, "", json.dumps(_fields(error)))
        except RuntimeError:  # torchrun is gone, and with it everyone who could be told
            return error
        fields = json.loads(said)
        return error if fields == _fields(error) else _error(fields)

    def is_first(self) -> bool:
        """Whether no other process asked this before: of many that end, one says why."""
        try:
            return int(self.store.add(TOLD, 1)) == 1
        except RuntimeError:
            return True

    def _wait(self, over: Callable[[], bool]) -> None:
        while not over():
            if self.store.check([FAILED]):
                raise _error(json.loads(self.store.get(FAILED)))
            time.sleep(PAUSE)


@contextmanager
def _within_reach() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise StageFailed("torchrun", f"is gone ({error})", "torchrun at work", "run the same command again") from error


def _fields(error: EdgekdError | KeyboardInterrupt) -> dict[str, str]:
    if isinstance(error, KeyboardInterrupt):
        return {}
    return {name: getattr(error, name) for name in ("reason", "where", "found", "expected", "hint")}


def _error(fields: dict[str, str]) -> EdgekdError | KeyboardInterrupt:
    return revived(**fields) if fields else KeyboardInterrupt()
