"""What can go wrong between a desk and a board, made on the fake one; each with the exit code and the words that it must have.

    python -m tests.board.faults [NAME ...]     (the root file system built before: python -m tests.board.build)

prints the table of what was seen. `test_faults.py` runs the same table.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.board import board as boards
from tests.board import build, files
from tests.board.striking import (
    BROUGHT,
    STEP,
    at_work,
    bench,
    brought,
    lock,
    rewritten,
    spoil,
    tampered,
)
from tests.board.world import Ended, World, around, exported
from tests.faults.chain import Failed, expect

FULL_KIB = 64  # of a disk that the bundle of some 200 kB does not fit on


class Skipped(Exception):
    """This machine cannot make the fault; says what is missing."""


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        make: Makes it, benches, mends it; gives how the bench ended.
        code: Exit code that it must have.
        says: Every one of these must be in the log.
        goes_on: The latencies were taken: the same command, typed again, goes on from there.
    """

    make: Callable[[World], Ended]
    code: int
    says: tuple[str, ...]
    goes_on: bool = False


def refused(world: World) -> Ended:
    """Nothing listens on the board's port."""
    world.board.stop()
    try:
        return bench(world)
    finally:
        world.board.start()


def unknown_host_key(world: World) -> Ended:
    """The user has never compared the board's key."""
    with rewritten(world.board.folder / "known_hosts", ""):
        return bench(world)


def other_host_key(world: World) -> Ended:
    """The board shows another key than the one known: installed anew, or somebody in between."""
    known = world.board.folder / "known_hosts"
    boards.make_key(world.board.folder / "strange")
    with rewritten(known, known.read_text()):
        boards.trust(world.board, world.board.folder / "strange")
        return bench(world)


def wrong_key(world: World) -> Ended:
    """The board accepts none of the user's keys."""
    with rewritten(world.board.folder / "authorized_keys", ""):
        return bench(world)


def no_python(world: World) -> Ended:
    """The Python that the board's file names is not there."""
    world.write_board(python="python3.6")
    try:
        return bench(world)
    finally:
        world.write_board()


def no_numpy(world: World) -> Ended:
    """The board's Python has no NumPy."""
    files.settings(world.board.folder, world.board.root, site="/nowhere")
    try:
        return bench(world)
    finally:
        files.settings(world.board.folder, world.board.root)


def disk_full(world: World) -> Ended:
    """The board's disk is too small for the bundle: the kernel's own ENOSPC."""
    place = world.board.file("root")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={FULL_KIB}k", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Skipped("mount -t tmpfs is not allowed here (needs root)") from error
    try:
        return bench(world)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def corrupt_since(world: World) -> Ended:
    """A file brought by an earlier run has changed on the board since: it is sent again."""
    if not any(world.board.file(BROUGHT).rglob("model.onnx")):
        expect(bench(world).code == 0, "the bench before")
    path = brought(world, "model.onnx")
    spoil(path)
    spoiled = path.read_bytes()
    done = bench(world)
    expect(path.read_bytes() != spoiled, "model.onnx is as it was spoiled")
    return done


def corrupt_at_work(world: World) -> Ended:
    """The model changes on the board's disk after it arrived, before the runner reads it."""
    return tampered(world, "model.onnx", spoil)


def tampered_bundle(world: World) -> Ended:
    """Somebody edits bundle.json on the board: another threshold for the golden answers."""

    def edit(path: Path) -> None:
        facts = json.loads(path.read_text())
        path.write_text(json.dumps({**facts, "tolerance": 1e9}))

    return tampered(world, "bundle.json", edit)


def stale_lock(world: World) -> Ended:
    """The lock of a process that was there before the board was started again."""
    with lock(world, boot="before"):
        return bench(world)


def foreign_lock(world: World) -> Ended:
    """Another user measures on the board at this moment."""
    boot = world.board.file(files.BOOT).read_text().strip()
    with lock(world, boot=boot):
        return bench(world)


def connection_killed(world: World) -> Ended:
    """The connection breaks while the runner is at work."""
    return at_work(world, lambda: expect(world.board.cut() >= 1, "no connection to cut"))


def rebooted(world: World) -> Ended:
    """The board is started again while the runner is at work."""
    return at_work(world, world.board.reboot)


def killed(world: World) -> Ended:
    """The kernel kills the runner, as it does when memory is out."""
    return at_work(world, lambda: expect(world.board.kill("runner.pyz bench") >= 1, "no runner to kill"))


def wrong_provider(world: World) -> Ended:
    """The profile asks for the GPU; the board's ONNX Runtime would silently run on the processor."""
    own = yaml.safe_load((Path(files.__file__).parents[2] / "devices" / "jetson-orin-nano.yaml").read_text())
    own |= {"name": "gpu", "host": boards.ALIAS, "runtimes": {"onnxruntime": {"provider": "CUDAExecutionProvider"}}}
    own["ssh_options"] = ["-F", str(world.board.folder / "ssh_config")]
    (world.folder / "gpu.yaml").write_text(yaml.safe_dump(own))
    return bench(world, "gpu.yaml")


FAULTS: dict[str, Fault] = {
    "connection refused": Fault(refused, 5, ("nothing listens there", "Connection refused")),
    "unknown host key": Fault(unknown_host_key, 5, ("host key is not known here", "fingerprint")),
    "other host key": Fault(other_host_key, 6, ("host key is another one", "ssh-keygen -R")),
    "wrong user key": Fault(wrong_key, 5, ("no key of yours is accepted", "ssh-copy-id")),
    "python missing": Fault(no_python, 5, ("python3.6", "no such Python")),
    "NumPy missing": Fault(no_numpy, 5, ("numpy", "pip install numpy")),
    "disk full": Fault(disk_full, 7, ("No space left on device", "MiB free")),
    "file changed at work": Fault(corrupt_at_work, 6, ("model.onnx", "SHA-256")),
    "bundle tampered with": Fault(tampered_bundle, 6, ("bundle.json",)),
    "file changed since": Fault(corrupt_since, 0, ("files sent",)),
    "stale lock": Fault(stale_lock, 0, ("started again since",)),
    "live foreign lock": Fault(foreign_lock, 7, ("somebody", "elsewhere")),
    "connection killed": Fault(connection_killed, 7, ("connection lost", "goes on from there"), goes_on=True),
    "board rebooted": Fault(rebooted, 7, ("started again",), goes_on=True),
    "runner killed": Fault(killed, 7, ("killed by SIGKILL", "memory"), goes_on=True),
    "provider fell back": Fault(wrong_provider, 4, ("runs on CPUExecutionProvider", "CUDAExecutionProvider")),
}


def meet(world: World, name: str) -> Ended:
    """Make one fault and hold edgekd to it: exit code, words, nothing lost, nothing half; gives how the bench ended.

    Raises:
        Failed: It does not hold.
        Skipped: This machine cannot make it.
    """
    fault, before = FAULTS[name], world.artifacts()
    done = fault.make(world)
    expect(done.code == fault.code, f"{name}: exit {done.code}, not {fault.code}: {done.err[-3000:]}")
    for words in fault.says:
        expect(words in done.err, f"{name}: {words!r} is not in: {done.err[-3000:]}")
    after = world.artifacts()
    kept = {i for i in before if not i.startswith("bench/")}
    expect(kept <= after, f"{name}: lost {kept - after}")
    expect(fault.code == 0 or after == before, f"{name}: a failed bench left {after - before}")
    if fault.goes_on:
        again = bench(world)
        expect(again.code == 0, f"{name}: typed again: exit {again.code}: {again.err[-3000:]}")
        notes = json.loads((world.newest(STEP) / "result.json").read_text())["notes"]
        expect(any("gone on from there" in note for note in notes), f"{name}: measured anew: {notes}")
    return done


def main(names: list[str]) -> int:
    """Meet the named faults, or all, and print the table."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        source = exported(Path(folder) / "exported")
        with boards.running(Path(folder) / "board", build.build(build.SUITES["bookworm"])) as board:
            with around(board, Path(folder) / "world", source) as world:
                for name in names or FAULTS:
                    begun = time.monotonic()
                    try:
                        done = meet(world, name)
                        said = f"exit {done.code}  " + last_words(done)
                    except (Failed, Skipped) as error:
                        failed += isinstance(error, Failed)
                        said = f"{type(error).__name__}: {error}"
                    sys.stdout.write(f"{name:22}{time.monotonic() - begun:5.0f} s  {said}\n")
                    sys.stdout.flush()
    return 3 if failed else 0


def last_words(done: Ended) -> str:
    """The line of the log that says it."""
    lines = [line for line in done.err.splitlines() if line and not line.startswith(("  ", "next:"))]
    return lines[-1] if lines else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
