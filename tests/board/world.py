"""A user beside the fake board: a workspace with a small exported student, the board's file, and `edgekd` as a real process."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from edgekd import integrity
from edgekd.store import Store
from edgekd.tools import place
from tests.board.board import ALIAS, Board
from tests.faults import chain
from tests.faults.chain import expect

DEVICE = "fake"
LIMIT = 240.0  # seconds that one command may take on a busy machine; a quiet one takes 15


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """What `--json` printed."""
        return json.loads(self.out)


class Running:
    """An `edgekd` at work, its log read as it comes."""

    def __init__(self, world: World, *argv: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgekd", *argv], cwd=world.folder, env=world.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._said: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._readers = [threading.Thread(target=self._read, args=(name,), daemon=True) for name in self._said]
        for reader in self._readers:
            reader.start()

    def reach(self, words: str) -> None:
        """Wait for a line of the log that holds these words."""
        while (line := self._lines.get(timeout=LIMIT)) is not None:
            if words in line:
                return
        raise AssertionError(f"never said {words!r}: {''.join(self._said['stderr'])[-2000:]}")

    def end(self, limit: float = LIMIT) -> Ended:
        """Wait until it has ended."""
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        for reader in self._readers:
            reader.join(10)
        return Ended(code, "".join(self._said["stdout"]), "".join(self._said["stderr"]))

    def _read(self, name: str) -> None:
        for line in getattr(self.process, name):
            self._said[name].append(line)
            if name == "stderr":
                self._lines.put(line)
        if name == "stderr":
            self._lines.put(None)


@dataclass
class World:
    """A folder with `tiny.yaml` and a workspace, and the board that its `edgekd` knows as `fake`."""

    folder: Path
    board: Board

    @property
    def environment(self) -> dict[str, str]:
        """Of every `edgekd`: nothing of the user's but where tools are installed, and the board."""
        tools = {name: os.environ[name] for name in (place.VARIABLE,) if name in os.environ}
        return chain.environment(**self.board.environment, **tools)

    def edgekd(self, *argv: str, limit: float = LIMIT) -> Ended:
        """A command that has ended, without a traceback whatever its exit code."""
        done = Running(self, *argv).end(limit)
        expect("Traceback" not in done.err, done.err[-3000:])
        return done

    def write_board(self, **more: object) -> None:
        """The board's file, as `devices add` writes it."""
        place = self.folder_of_boards / f"{DEVICE}.yaml"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(yaml.safe_dump({"name": DEVICE, "profile": "jetson-orin-nano", "host": ALIAS, **more}))

    @property
    def folder_of_boards(self) -> Path:
        """Of the user's config."""
        return Path(self.board.environment["EDGEKD_CONFIG"]) / "devices"

    def newest(self, step: str) -> Path:
        """The folder of the newest artifact of a step."""
        artifact = Store(self.folder / "workspace").newest(step)
        expect(artifact is not None, f"no {step}")
        return artifact.path

    def artifacts(self) -> set[str]:
        """Ids of everything in the workspace, each whole to its last byte.

        Raises:
            Failed: One is not, or something lies half-made among them.
        """
        store = Store(self.folder / "workspace")
        found = store.all()
        for artifact in found:
            expect(not integrity.verify(artifact), f"{artifact.id} is not whole")
        expect(not store.broken(), f"half-made: {store.broken()}")
        return {artifact.id for artifact in found}


def exported(folder: Path) -> Path:
    """A folder with a student of digits, exported as float32 and int8 ONNX: some 15 s."""
    chain.write_recipe(folder)
    done = chain.edgekd(folder, "export")
    expect(done.process.returncode == 0, done.text[-3000:])
    return folder


@contextmanager
def around(board: Board, folder: Path, source: Path) -> Iterator[World]:
    """A world of its own with a copy of an exported workspace."""
    shutil.copytree(source, folder, symlinks=True)
    world = World(folder, board)
    world.write_board()
    yield world
