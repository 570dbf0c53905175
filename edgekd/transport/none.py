"""No way to a device: a microcontroller or a model of a chip runs no Python, so nothing can be sent to it and measured there.

Needs: nothing.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from edgekd.errors import MissingTool
from edgekd.transport.base import Completed, Transport

FOUND = "runs no Python: edgekd makes files for it, and estimates; it cannot measure there"
HINT = "edgekd export --format ethos-u55-128 --output DIR, and the maker's own tools to bring the file there"


class Nowhere(Transport):
    """Refuses everything, in one sentence."""

    VERSION = 1

    def __init__(self) -> None:
        self.python, self.shares_files = "", False

    def push(self, folder: Path) -> str:
        """Refuse."""
        _refuse()

    def run(self, argv: Sequence[str]) -> Completed:
        """Refuse."""
        _refuse()

    def start(self, argv: Sequence[str]) -> subprocess.Popen[str]:
        """Refuse."""
        _refuse()

    def pull(self, there: str, folder: Path) -> None:
        """Refuse."""
        _refuse()


def _refuse() -> NoReturn:
    raise MissingTool("device", FOUND, "a board that SSH reaches", HINT)
