"""Every fault but kill -9, each as a function that raises `Failed` when something was lost or no clear error was given."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from tests.faults import chain
from tests.faults.chain import Failed, Process, edgekd, expect

EXPORT = ("export",)  # as far as the chain goes without measuring
DISTILL = ("distill",)
Ids = dict[str, str]


class Skipped(Exception):
    """This machine cannot make the fault; says what is missing."""


def disk_full(folder: Path, wanted: Ids, random: Random) -> None:
    """A disk of a random size: exit 7, and with space the same ids."""
    with chain.fresh(folder), small_disk(folder / "workspace", random.randrange(40, 1500)) as disk:
        full = edgekd(folder, *EXPORT)
        clear(full, 7)
        chain.check(folder, wanted)
        disk("size=64m")
        chain.finish(folder, wanted, *EXPORT)


def file_limit(folder: Path, wanted: Ids, random: Random) -> None:
    """No file may be larger than a random size (`ulimit -f`): exit 7, and without the limit the same ids."""
    with chain.fresh(folder):
        clear(edgekd(folder, *EXPORT, limit=random.randrange(500, 350_000)), 7)
        chain.check(folder, wanted)
        chain.finish(folder, wanted, *EXPORT)


def read_only(folder: Path, wanted: Ids, random: Random) -> None:
    """A workspace that is read-only from the start, then from a random moment on: exit 7, and writable the same ids."""
    with chain.fresh(folder), small_disk(folder / "workspace", 64 * 1024) as disk:
        disk("ro")
        clear(edgekd(folder, *EXPORT), 7)
        disk("rw")
        process = Process(folder, EXPORT)
        process.reach(f"making  {random.choice(['teacher', 'student', 'graph'])} ")
        time.sleep(random.uniform(0, 1))
        with contextlib.suppress(subprocess.CalledProcessError):  # busy: something is being written at this moment
            disk("ro")
        process.end()
        clear(process, 7, 0)
        chain.check(folder, wanted)
        disk("rw")
        chain.finish(folder, wanted, *EXPORT)


def damaged_checkpoint(folder: Path, wanted: Ids, random: Random) -> None:
    """A checkpoint cut at a random length or with a random bit turned: the one before, or exit 6; never another result."""
    step = random.choice(["teacher", "student"])
    with chain.fresh(folder):
        resume = _stop_in_training(folder, step)
        newest = sorted(resume.glob("epoch-*.safetensors"))[-1]
        spoil(newest, random)
        again = Process(folder, DISTILL)
        again.end()
        expect(f"checkpoint {newest.name} is unusable" in again.text, again.text)
        clear(again, 0, 6)
        chain.check(folder, wanted)
        if again.process.returncode == 6:  # the newest was the only one
            shutil.rmtree(resume)
        chain.finish(folder, wanted, *DISTILL)


def no_checkpoint_left(folder: Path, wanted: Ids, random: Random) -> None:
    """All checkpoints damaged: exit 6 that names the folder; without the folder the same ids."""
    with chain.fresh(folder):
        resume = _stop_in_training(folder, "teacher")
        for path in resume.glob("epoch-*.safetensors"):
            spoil(path, random)
        lost = edgekd(folder, *DISTILL)
        clear(lost, 6)
        expect("delete this folder" in lost.text, lost.text)
        shutil.rmtree(resume)
        chain.finish(folder, wanted, *DISTILL)


def clock_back(folder: Path, wanted: Ids, random: Random) -> None:
    """The clock jumps back by years between two runs: same ids, found by key, and `latest` is what was made last."""
    years = random.randrange(1, 40)
    with chain.fresh(folder):
        past = _past(folder, years * 365.25 * 86400)
        expect(edgekd(folder, "train").process.returncode == 0, "train")
        back = edgekd(folder, *DISTILL, **past)
        expect(back.process.returncode == 0 and "reused  teacher" in back.text, back.text)
        chain.finish(folder, wanted, *DISTILL)
        other = edgekd(folder, *DISTILL, overrides=("distill.temperature=2",), **past)
        expect(other.process.returncode == 0 and "distill.args.temperature" in other.text, other.text)
        _, latest = chain.command(folder, "artifacts", "show", "latest", "--json")
        expect('"temperature": 2' in latest, latest)


def two_at_once(folder: Path, wanted: Ids, random: Random) -> None:
    """Two processes, one recipe: both end well, with the same ids, and one of them waits or finds."""
    with chain.fresh(folder):
        first = Process(folder, EXPORT)
        time.sleep(random.uniform(0, 2))
        second = Process(folder, EXPORT)
        codes = first.end(), second.end()
        expect(codes == (0, 0), f"{codes}: {first.text}\n{second.text}")
        made = [process.text.count("\nmade ") + process.text.startswith("made ") for process in (first, second)]
        expect(sum(made) >= len(wanted), f"{made} made: {first.text}\n{second.text}")
        making = (first.text + "\n" + second.text).count("making  teacher")
        expect(making == 1, f"the teacher was made {making} times")
        chain.finish(folder, wanted, *EXPORT)


def two_recipes(folder: Path, wanted: Ids, random: Random) -> None:
    """Two processes, two recipes in one workspace: both end well; what they share is made once."""
    with chain.fresh(folder):
        first = Process(folder, EXPORT)
        time.sleep(random.uniform(0, 1))
        second = Process(folder, EXPORT, ("name=other", "distill.temperature=2", "export=[onnx]"))
        codes = first.end(), second.end()
        expect(codes == (0, 0), f"{codes}: {first.text}\n{second.text}")
        expect((first.text + second.text).count("making  teacher") == 1, "the teacher was made twice")
        listed = chain.command(folder, "artifacts", "ls")[1]
        expect(all(name in listed for name in wanted.values()), listed)
        expect(chain.command(folder, "artifacts", "verify")[0] == 0, "artifacts verify")


def asked_to_end(folder: Path, wanted: Ids, random: Random) -> None:
    """SIGTERM to the process alone, or SIGINT to the group, at a random moment: exit 130 in words, nothing left running."""
    number = random.choice([signal.SIGTERM, signal.SIGINT])
    with chain.fresh(folder):
        for _ in range(3):
            process = Process(folder)
            if process.reach(f"making  {random.choice(['teacher', 'student', 'graph', 'bench/onnx@cpu'])} "):
                time.sleep(random.uniform(0, 3))
            alive = process.send(number, group=number == signal.SIGINT)
            process.end()
            clear(process, *([130] if alive else []), 0)
            chain.check(folder, wanted)
        chain.finish(folder, wanted)


def orphan(folder: Path, wanted: Ids, random: Random) -> None:
    """The process is killed and the runner that it started lives on: the next run's measurement is its own."""
    with chain.fresh(folder):
        process = Process(folder)
        expect(process.reach("making  bench/onnx@cpu "), process.text)
        time.sleep(random.uniform(0, 4))
        process.send(signal.SIGKILL, group=False)
        process.process.wait()
        try:
            chain.finish(folder, wanted)
        finally:
            process.send(signal.SIGKILL)


def killed_holder(folder: Path, wanted: Ids, random: Random) -> None:
    """The maker that another process waits for is killed: the other takes over at once."""
    with chain.fresh(folder):
        holder = Process(folder, DISTILL)
        expect(holder.reach("making  teacher "), holder.text)
        holder.send(signal.SIGSTOP)  # it shall not be done before the other is there
        other = Process(folder, DISTILL)
        expect(other.reach("waiting teacher "), other.text)
        expect(holder.send(signal.SIGKILL), "the holder ended before it was killed")
        holder.end()
        expect(other.end() == 0 and "making  teacher" in other.text, other.text)
        chain.finish(folder, wanted, *DISTILL)


FAULTS: dict[str, tuple[Callable[[Path, Ids, Random], None], tuple[str, ...]]] = {
    "disk full": (disk_full, EXPORT),
    "file size limit": (file_limit, EXPORT),
    "read-only": (read_only, EXPORT),
    "checkpoint damaged": (damaged_checkpoint, DISTILL),
    "no checkpoint left": (no_checkpoint_left, DISTILL),
    "clock set back": (clock_back, DISTILL),
    "two at once": (two_at_once, EXPORT),
    "two recipes at once": (two_recipes, EXPORT),
    "SIGTERM or SIGINT": (asked_to_end, ()),
    "runner left behind": (orphan, ()),
    "lock holder killed": (killed_holder, DISTILL),
}


def clear(process: Process, *codes: int) -> None:
    """One of these exit codes; when it is a failure, words on one screen and no traceback.

    Raises:
        Failed: Otherwise.
    """
    tail = process.text[-3000:]
    expect(process.process.returncode in codes, f"exit {process.process.returncode}, not {codes}: {tail}")
    expect("Traceback" not in process.text and "Exception ignored" not in process.text, tail)


def spoil(path: Path, random: Random) -> None:
    """Cut a file at a random length, or turn one random bit of it."""
    content = bytearray(path.read_bytes())
    if random.random() < 0.5:
        del content[random.randrange(len(content)) :]
    else:
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


@contextlib.contextmanager
def small_disk(place: Path, kib: int) -> Iterator[Callable[[str], None]]:
    """A disk of its own at a place; what is given remounts it with other options.

    Raises:
        Skipped: Mounting is not allowed here.
    """
    place.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", place], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Skipped("mount -t tmpfs is not allowed here (needs root)") from error

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", place], check=True, capture_output=True)

    try:
        yield remount
    finally:
        subprocess.run(["umount", "-l", place], check=False, capture_output=True)


def _stop_in_training(folder: Path, step: str) -> Path:
    """Kill a run once a step has two checkpoints; gives the folder that they are in."""
    for _ in range(3):
        process = Process(folder, DISTILL)
        expect(process.reach(f"making  {step} "), process.text)
        scratch = folder / "workspace" / "artifacts" / ".scratch"
        while process.process.poll() is None and not any(scratch.glob(f"{step}-*/resume/epoch-000002.safetensors")):
            time.sleep(0.0005)
        process.send(signal.SIGKILL)
        process.end()
        found = list(scratch.glob(f"{step}-*/resume"))
        if found and any(found[0].glob("epoch-*.safetensors")):
            return found[0]
        shutil.rmtree(folder / "workspace")
    raise Failed(f"no checkpoint of {step} to be had")


CLOCK = """
import datetime, os, time
BACK = float(os.environ["FAULTS_CLOCK_BACK"])
real, now = datetime.datetime, time.time


class Past(real):
    @classmethod
    def now(cls, tz=None):
        return real.now(tz) - datetime.timedelta(seconds=BACK)


datetime.datetime = Past
time.time = lambda: now() - BACK
"""


def _past(folder: Path, seconds: float) -> dict[str, str]:
    """The environment of a process whose clock goes behind, and the files that it finds with the dates of then."""
    place = folder / "clock"
    place.mkdir()
    (place / "sitecustomize.py").write_text(CLOCK)
    path = os.pathsep.join((str(place), chain.environment()["PYTHONPATH"]))
    return {"PYTHONPATH": path, "FAULTS_CLOCK_BACK": str(seconds)}
