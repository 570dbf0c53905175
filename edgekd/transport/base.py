"""How a command gets to a device and files get there and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
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
    """

    VERSION: int = 1
    python: str
    shares_files: bool

    @abstractmethod
    def push(self, folder: Path) -> str:
        """Bring a folder to the device; gives its path there."""

    @abstractmethod
    def run(self, argv: Sequence[str]) -> Completed:
        """Run a command on the device until it ends; any exit code is an answer.

        Raises:
            MissingTool: The program is not there.
            StageFailed: It was killed (out of memory?), or the connection was lost.
        """

    @abstractmethod
    def pull(self, there: str, folder: Path) -> None:
        """Bring the files of a folder on the device into a folder here.

        Raises:
            StageFailed: They are not there, or cannot be written here.
        """
