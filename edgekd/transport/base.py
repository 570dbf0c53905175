"""How a command gets to a device and files get there and back."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Completed:
    """A command that ended by itself."""

    returncode: int
    stdout: str
    stderr: str


class Transport(ABC):
    """The way to one device. One file in this folder = one transport.

    Attributes:
        VERSION: Raised when the same command gives another result.
        python: The device's Python, as `run` starts it.
        shares_files: Whether the device sees this machine's files under the same paths: nothing large need be copied.
        sent: Files and bytes that the last `push` had to send.
    """

    VERSION: int = 1
    python: str
    shares_files: bool
    sent: tuple[int, int] = (0, 0)

    @abstractmethod
    def push(self, folder: Path) -> str:
        """Bring a folder to the device; gives its path there. What lies there already is not sent again."""

    @abstractmethod
    def run(self, argv: Sequence[str]) -> Completed:
        """Run a command on the device until it ends; any exit code is an answer.

        Raises:
            MissingTool: The program is not there.
            StageFailed: It was killed (out of memory?), or the connection was lost.
        """

    @abstractmethod
    def start(self, argv: Sequence[str]) -> subprocess.Popen[str]:
        """Start a command on the device to be talked to: text pipes to stdin and from stdout and stderr.

        It must end by itself when its stdin ends.

        Raises:
            MissingTool: The program, or ssh, is not there.
        """

    @abstractmethod
    def pull(self, there: str, folder: Path) -> None:
        """Bring the files of a folder on the device into a folder here.

        Raises:
            StageFailed: They are not there, or cannot be written here.
        """

    def clear(self, there: str) -> None:  # noqa: B027  # nothing to do where the folder is the caller's own
        """Remove a folder that a command made beside what was pushed."""

    def held(self, log: Callable[[str], object]) -> AbstractContextManager[None]:
        """Be the device's only user while the block runs; `log` is told of a lock that nobody holds any more.

        Raises:
            StageFailed: Somebody else is.
        """
        return nullcontext()
