"""A tiny but complete chain as real processes: started, followed by their log, ended, and what must hold after each end."""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgekd import cli, integrity
from edgekd.store import Store

REPOSITORY = Path(__file__).resolve().parents[2]
LIMIT = 240.0  # seconds that a whole chain may take on a busy machine; a quiet one takes 15
FIT = {"epochs": 4, "lr": 0.05, "schedule": "cosine", "device": "cpu", "compile": False}
RECIPE = {
    "name": "tiny",
    "data": {"use": "digits", "train": 1000},  # with fewer, the int8 graph is near the bound of parity
    "teacher": {"model": "resnet8", "fit": FIT},
    "student": {"model": "resnet8", "fit": FIT},
    "distill": {"use": "kd"},
    "quantize": {"images": 128},
    "bench": {"profile": "smoke"},
}


class Failed(AssertionError):
    """Something was lost, or a failure was no clear one."""


def expect(holds: object, said: str) -> None:
    """An assertion that `python -O` keeps, with what was seen.

    Raises:
        Failed: It does not hold.
    """
    if not holds:
        raise Failed(said)


def environment(**more: str) -> dict[str, str]:
    """The environment of every process: one thread, nothing of the user's workspace and data."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGEKD_")}
    path = os.pathsep.join(part for part in (str(REPOSITORY), kept.get("PYTHONPATH", "")) if part)
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": path, **more}


def write_recipe(folder: Path) -> None:
    """The recipe, with cached views where this edgekd has them."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = dict(RECIPE)
    if "cached_views" in _schema("Distill"):
        recipe["distill"] = {"use": "kd", "cached_views": 2}
    (folder / "tiny.yaml").write_text(json.dumps(recipe))  # JSON is YAML


def _schema(section: str) -> set[str]:
    from edgekd.recipe import Recipe

    return set(Recipe.model_json_schema()["$defs"][section]["properties"])


@dataclass
class Process:
    """One `edgekd` in a group of its own, with the time of each line of its log.

    Attributes:
        log: (seconds since the start, line).
    """

    folder: Path
    argv: tuple[str, ...] = ("run",)
    overrides: tuple[str, ...] = ()
    limit: int | None = None  # bytes that one file may have
    more: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.log: list[tuple[float, str]] = []
        self.lines: queue.Queue[str | None] = queue.Queue()
        command = [sys.executable, "-m", "edgekd", *self.argv]
        if self.argv[0] in ("run", "train", "distill", "export"):
            command += ["--recipe", "tiny.yaml", "--threads", "1"]
            command += [part for text in self.overrides for part in ("--set", text)]
        self.start = time.monotonic()
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=environment(**self.more), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
            preexec_fn=self._prepare,
        )  # fmt: skip
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _prepare(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job inherits that it is ignored
        if self.limit is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, self.limit))

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append((time.monotonic() - self.start, line.rstrip("\n")))
            self.lines.put(line)
        self.lines.put(None)

    def reach(self, words: str) -> bool:
        """Wait for a line that begins with these words; False when the process ended without it."""
        while (line := self.lines.get(timeout=LIMIT)) is not None:
            if line.startswith(words):
                return True
        return False

    @property
    def stage(self) -> str:
        """The step that the log says is being made; `report` behind the last, `start` before the first."""
        for _, line in reversed(self.log):
            word, _, rest = line.partition(" ")
            if word == "making":
                return rest.split()[0]
            if word in ("made", "reused"):
                step = rest.split()[0].rpartition("/")[0]
                return "report" if step.startswith("bench/onnx-int8") else "between"
        return "start"

    @property
    def text(self) -> str:
        """The whole log."""
        return "\n".join(line for _, line in self.log)

    def send(self, number: int, *, group: bool = True) -> bool:
        """Send a signal to the process and its children; False when it has ended by itself before."""
        alive = self.process.poll() is None
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.process.pid, number)
        return alive

    def end(self) -> int:
        """Wait until it has ended; gives its exit code.

        Raises:
            Failed: It hangs, or leaves a child behind.
        """
        try:
            code = self.process.wait(LIMIT)
        except subprocess.TimeoutExpired as error:
            self.send(signal.SIGKILL)
            raise Failed(f"hangs: {self.text[-2000:]}") from error
        if code != -signal.SIGKILL:
            expect(not _group_lives(self.process.pid), f"left a child behind: {self.text[-2000:]}")
        self.reader.join(10)
        return code


def _group_lives(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def edgekd(folder: Path, *argv: str, overrides: tuple[str, ...] = (), limit: int | None = None, **more: str) -> Process:
    """A process that has ended."""
    process = Process(folder, argv or ("run",), overrides, limit, more)
    process.end()
    return process


def finish(folder: Path, wanted: dict[str, str], *argv: str) -> None:
    """Run again to the end, as a user would: exit 0, exactly the ids of the unbroken run, every byte as sealed.

    Raises:
        Failed: One of these does not hold.
    """
    done = edgekd(folder, *argv)
    if done.process.returncode == 4:  # the machine changed under a measurement: nothing was lost, it is measured again
        done = edgekd(folder, *argv)
    expect(done.process.returncode == 0, f"exit {done.process.returncode}: {done.text[-2000:]}")
    check(folder, wanted)
    found = ids(folder)
    expect(found == wanted, f"other ids than the unbroken run: {found} for {wanted}")


def ids(folder: Path) -> dict[str, str]:
    """{step: id} of what `artifacts ls` lists."""
    code, text = command(folder, "artifacts", "ls", "--json")
    expect(code == 0, f"artifacts ls: exit {code}: {text[-1000:]}")
    return {a["id"].rpartition("/")[0]: a["id"] for a in json.loads(text)["artifacts"]}


def check(folder: Path, wanted: dict[str, str]) -> None:
    """What must hold at any moment: everything listed is whole and known, nothing is half, verify and gc work.

    Raises:
        Failed: It does not.
    """
    whole(folder, wanted)
    for words in (("artifacts", "verify"), ("artifacts", "gc")):
        code, text = command(folder, *words)
        expect(code == 0, f"{' '.join(words)}: exit {code}: {text[-1000:]}")


def whole(folder: Path, wanted: dict[str, str]) -> None:
    """What must hold while a run is at work, too: what `artifacts ls` lists is there to its last byte.

    Raises:
        Failed: It is not.
    """
    store = Store(folder / "workspace")
    for step, name in ids(folder).items():
        artifact = store.get(name)
        expect(artifact is not None and not integrity.verify(artifact), f"{name} is listed and not whole")
        expect(wanted.get(step) == name, f"{name} is not that of the unbroken run, {wanted.get(step)}")
    expect(not store.broken(), f"half-made: {store.broken()}")


def command(folder: Path, *argv: str) -> tuple[int, str]:
    """A command that needs no process of its own: (exit code, what it printed)."""
    said, before = io.StringIO(), (sys.argv, Path.cwd(), signal.getsignal(signal.SIGTERM))
    code: int | str | None = 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        sys.argv = ["edgekd", *argv]
        os.chdir(folder)
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        finally:
            sys.argv = before[0]
            os.chdir(before[1])
            signal.signal(signal.SIGTERM, before[2])
    return int(code or 0), said.getvalue()


@contextlib.contextmanager
def fresh(folder: Path) -> Iterator[Path]:
    """A folder with the recipe alone; gone afterwards unless something failed in it."""
    shutil.rmtree(folder, ignore_errors=True)
    write_recipe(folder)
    yield folder
    shutil.rmtree(folder)


def unbroken(folder: Path, *argv: str) -> tuple[dict[str, str], dict[str, float]]:
    """One run that nothing disturbs: {step: id} and {step: seconds}, with `report` among the steps."""
    with fresh(folder):
        done = edgekd(folder, *argv)
        expect(done.process.returncode == 0, done.text)
        found, seconds, since = ids(folder), {}, {}
        last = 0.0
        for at, line in done.log:
            word, _, rest = line.partition(" ")
            if word == "making":
                since[rest.split()[0]] = at
            elif word == "made":
                step = rest.split()[0].rpartition("/")[0]
                seconds[step], last = at - since[step], at
        whole = time.monotonic() - done.start
        seconds |= {"start": min(since.values(), default=1.0), "report": max(whole - last, 0.5)}
        check(folder, found)
    return found, seconds
