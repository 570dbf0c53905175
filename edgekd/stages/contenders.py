"""Those that take turns in one measurement: a process that is told on its stdin when, or a program run anew each time."""

from __future__ import annotations

import json
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from edgekd.analysis.turns import WHOLE
from edgekd.errors import EdgekdError, MeasurementVoid, MissingTool, StageFailed

Block = dict[str, npt.NDArray[np.int64]]  # {part: nanoseconds of each query}
Starter = Callable[[Sequence[str]], "subprocess.Popen[str]"]
GONE_SECONDS = 60  # for a process to end after its last word


class Contender(ABC):
    """One of those that take turns."""

    name: str

    @abstractmethod
    def ready(self) -> None:
        """Start it and wait until it can take its turn: model loaded, checked, warm."""

    @abstractmethod
    def step(self, n: int) -> Block:
        """Time n queries."""

    @abstractmethod
    def finish(self) -> None:
        """Let it do what is left and end by itself."""

    @abstractmethod
    def stop(self) -> None:
        """End it now; nothing to do where it has ended."""


class Spoken(Contender):
    """A process that speaks lines of JSON: `{"ready": true}`, then for every `step N` the nanoseconds of N queries.

    The answer to a step is {"ns": [N end-to-end figures], "parts": {name: [N]}} as of `edgekd.runner.turns`; `finish` lets the
    process end.

    Args:
        name: In tables and errors.
        argv: The command.
        start: Starts it with text pipes (a transport's `start`); default: on this machine.
        understand: Makes an error of its exit code and stderr.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        start: Starter | None = None,
        understand: Callable[[int, str], EdgekdError] | None = None,
    ) -> None:
        self.name, self._argv = name, argv
        self._start, self._understand = start or start_here, understand
        self._child: subprocess.Popen[str] | None = None

    def ready(self) -> None:
        """Start the process and wait for its word."""
        self._child = self._start(self._argv)
        self._hear("ready")

    def step(self, n: int) -> Block:
        """Ask for n queries and wait for them."""
        self._say(f"step {n}")
        said = self._hear("ns")
        if said.get("void"):
            raise MeasurementVoid(self.name, "; ".join(said["void"]), "an undisturbed machine", "measure again")
        series = {WHOLE: said["ns"], **said.get("parts", {})}
        block = {part: np.asarray(values, np.int64) for part, values in series.items()}
        if any(len(values) != n for values in block.values()):
            raise StageFailed(self.name, f"answered {n} queries with other counts", "one figure a query of each part")
        return block

    def finish(self) -> None:
        """Let it end."""
        self._say("finish")
        child = cast("subprocess.Popen[str]", self._child)
        cast("IO[str]", child.stdout).read()
        if child.wait() != 0:
            raise self._ended()

    def stop(self) -> None:
        """Kill it where it still runs."""
        child, self._child = self._child, None
        if child is None:
            return
        if child.poll() is None:
            child.kill()
        child.communicate()

    def _say(self, line: str) -> None:
        pipe = cast("IO[str]", cast("subprocess.Popen[str]", self._child).stdin)
        try:
            pipe.write(line + "\n")
            pipe.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _hear(self, key: str) -> dict[str, Any]:
        line = cast("IO[str]", cast("subprocess.Popen[str]", self._child).stdout).readline()
        if not line:
            raise self._ended()
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict) or key not in said:
            raise StageFailed(self.name, f"said {line.strip()[:200]!r}", f"a line of JSON with {key}")
        return said

    def _ended(self) -> EdgekdError:
        child = cast("subprocess.Popen[str]", self._child)
        try:
            _, err = child.communicate(timeout=GONE_SECONDS)
        except subprocess.TimeoutExpired:
            return StageFailed(self.name, "closed its output and goes on", "a program that answers")
        if child.returncode < 0:
            return StageFailed(
                self.name, f"killed by signal {-child.returncode} (out of memory?)", "a worker that ends by itself"
            )
        if self._understand is not None:
            return self._understand(child.returncode, err or "")
        last = ((err or "").strip().splitlines() or [""])[-1]
        return StageFailed(
            self.name, f"ended with exit code {child.returncode}: {last[:400]}", "a program that answers"
        )


class Started(Contender):
    """A program that is run anew for every block and tells one figure of it, the median.

    Args:
        name: In tables and errors.
        once: Runs it for about so many queries; gives the median of one in nanoseconds.
    """

    def __init__(self, name: str, once: Callable[[int], float]) -> None:
        self.name, self._once = name, once

    def ready(self) -> None:
        """Nothing runs between blocks."""

    def step(self, n: int) -> Block:
        """Run it; the block holds its one figure."""
        return {WHOLE: np.array([round(self._once(n))], np.int64)}

    def finish(self) -> None:
        """Nothing is left."""

    def stop(self) -> None:
        """Nothing runs."""


def start_here(argv: Sequence[str]) -> subprocess.Popen[str]:
    """A process of this machine with text pipes.

    Raises:
        MissingTool: No such program.
    """
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, errors="replace")
    except OSError as error:
        raise MissingTool(argv[0], error.strerror or str(error), "a program on this machine") from error
