"""This machine: a subprocess."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgekd.errors import MissingTool, StageFailed
from edgekd.transport.base import Completed, Transport

SHELL_SIGNAL = 128  # a shell reports "killed by signal s" as 128 + s


class Link(Transport):
    """Runs commands here with the Python that runs edgekd; folders are used where they lie."""

    def __init__(self) -> None:
        self.python = sys.executable
        self.shares_files = True

    def push(self, folder: Path) -> str:
        """The folder itself."""
        return str(folder.resolve())

    def run(self, argv: Sequence[str]) -> Completed:
        """Run a command and wait."""
        try:
            code, out, err = _run(argv)
        except FileNotFoundError as error:
            raise MissingTool(argv[0], "no such program", "a program on this machine") from error
        except OSError as error:
            raise StageFailed(argv[0], error.strerror or str(error), "a program that starts") from error
        if code < 0 or code == SHELL_SIGNAL + signal.SIGKILL:
            number = -code if code < 0 else signal.SIGKILL
            why = "out of memory?" if number == signal.SIGKILL else "see the system log"
            raise StageFailed(Path(argv[0]).name, f"killed by {_name(number)} ({why})", "a worker that ends by itself")
        return Completed(code, out, err)

    def start(self, argv: Sequence[str]) -> subprocess.Popen[str]:
        """Start a command to be talked to."""
        pipe = subprocess.PIPE
        try:
            return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, errors="replace")
        except FileNotFoundError as error:
            raise MissingTool(argv[0], "no such program", "a program on this machine") from error
        except OSError as error:
            raise StageFailed(argv[0], error.strerror or str(error), "a program that starts") from error

    def pull(self, there: str, folder: Path) -> None:
        """Copy the files."""
        source = Path(there)
        if source.resolve() == folder.resolve():
            return
        try:
            for path in sorted(source.iterdir()):
                shutil.copyfile(path, folder / path.name)
        except OSError as error:
            raise StageFailed(
                str(error.filename or there), error.strerror or str(error), "files of the device"
            ) from error


def _run(argv: Sequence[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr. Interrupted, the child is dead and gone before this ends; `subprocess.run` leaves it dying."""
    pipe = subprocess.PIPE
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, errors="replace")
    with child:
        try:
            out, err = child.communicate()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    return child.returncode, out, err


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
