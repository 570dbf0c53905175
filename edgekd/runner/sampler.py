"""Reads something again and again from a thread while other work goes on."""

from __future__ import annotations

import threading
from typing import Any, Callable, Generic, List, Optional, TypeVar

from edgekd.runner.failure import RunnerError

T = TypeVar("T")
GOLDEN = 0.6180339887498949  # its multiples fill an interval evenly


class Sampler(Generic[T]):
    """A context: `read` is called at once, then every `seconds` on average, until the block ends.

    The pauses are uneven (half to one and a half of `seconds`), so that the readings do not fall into step with queries of the
    same length. What `read` raises ends the reading and comes out of the block's end.

    Attributes:
        values: What was read, oldest first.
    """

    def __init__(self, read: Callable[[], T], seconds: float) -> None:
        self.values: List[T] = []
        self._read, self._seconds = read, seconds
        self._end = threading.Event()
        self._failed: Optional[Exception] = None
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Sampler[T]:
        self._thread.start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._end.set()
        self._thread.join()
        if self._failed is not None and error is None:
            raise self._failed

    def _run(self) -> None:
        turn = 0
        try:
            while True:
                self.values.append(self._read())
                turn += 1
                if self._end.wait(self._seconds * (0.5 + turn * GOLDEN % 1.0)):
                    return
        except (OSError, ValueError, RunnerError) as error:  # nobody hears a thread: raised again where the block ends
            self._failed = error
