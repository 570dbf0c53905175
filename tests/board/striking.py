"""How a fault of `faults.py` is brought about: the command that it meets, and the moment at which it strikes."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.board.world import DEVICE, LIMIT, Ended, Running, World
from tests.faults.chain import Failed, expect

BENCH = ("bench", "--format", "onnx-int8", "--set", "bench.runtime=onnxruntime", "--set", "bench.profile=smoke")
STEP = f"bench/onnx-int8@{DEVICE}"
BROUGHT = "root/.cache/edgekd"  # where files go on the board


def bench(world: World, device: str = DEVICE) -> Ended:
    """The command that every fault meets."""
    return world.edgekd(*BENCH, "--device", device)


def at_work(world: World, strike: Callable[[], object]) -> Ended:
    """Bench, and strike once the latencies are taken and the test images are being answered."""
    world.board.run("rm -rf .cache/edgekd/runs")
    running = Running(world, *BENCH, "--device", DEVICE)
    until(lambda: any(world.board.file(BROUGHT).rglob("partial.json")), running)
    strike()
    return running.end()


def tampered(world: World, name: str, change: Callable[[Path], None]) -> Ended:
    """Bench on a board that has nothing yet, and change a file as soon as it is there."""
    world.board.run("rm -rf .cache/edgekd")
    running = Running(world, *BENCH, "--device", DEVICE)
    until(lambda: any(world.board.file(BROUGHT).rglob(name)), running)
    change(brought(world, name))
    return running.end()


def until(there: Callable[[], bool], running: Running) -> None:
    """Wait for something on the board while a command runs.

    Raises:
        Failed: The command ended before.
    """
    limit = time.monotonic() + LIMIT
    while not there():
        if running.process.poll() is not None or time.monotonic() > limit:
            raise Failed(f"ended before it was struck: {running.end().err[-3000:]}")
        time.sleep(0.02)


def brought(world: World, name: str) -> Path:
    """A file that edgekd has brought to the board."""
    found = sorted(world.board.file(BROUGHT).rglob(name))
    expect(len(found) == 1, f"{name} on the board: {found}")
    return found[0]


def spoil(path: Path) -> None:
    """Turn one bit of the last byte."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@contextlib.contextmanager
def rewritten(path: Path, text: str) -> Iterator[None]:
    """A file with another content for a while."""
    before = path.read_text()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)


@contextlib.contextmanager
def lock(world: World, boot: str) -> Iterator[None]:
    """A lock on the board, of a process that lives, taken since a start of the board."""
    place = world.board.file(BROUGHT) / "lock.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    said = {"token": "t", "owner": "somebody", "host": "elsewhere", "pid": os.getpid(), "boot": boot}
    place.write_text(json.dumps({**said, "start": time.time() - 60}))
    try:
        yield
    finally:
        place.unlink(missing_ok=True)
