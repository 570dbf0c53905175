"""A worker script run by a tool environment's Python: a JSON file in, a JSON file out, a log kept, and every end of it told.

What a worker is, and what its exit codes mean: `bootstrap.py`. Lines that it prints with `> ` in front are progress and are
shown; all are kept in `<out>/<worker>.log`, which is no part of what it made.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.console import Console
from edgekd.errors import EdgekdError, MissingTool, StageFailed, revived
from edgekd.runner.failure import INTERRUPTED
from edgekd.runner.failure import REASONS as ENDS
from edgekd.tools import bootstrap, place
from edgekd.tools.beside import BesideEnv
from edgekd.tools.place import Env

WORKERS = Path(__file__).with_name("workers")
KEPT = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")  # of the caller's environment
LIMIT = 3600.0  # seconds; a conversion of a network for an edge device takes 5 to 80
LAST = 12  # lines of a dead worker's log that its error shows
PROGRESS = "> "
REASONS = {reason for code, reason in ENDS.items() if code != INTERRUPTED}  # of the runner's errors


@dataclass(frozen=True)
class _Ended:
    code: int
    last: list[str]
    late: bool


def run_worker(
    tool: str,
    job: Mapping[str, Any],
    out: Path,
    *,
    where: str,
    console: Console,
    worker: str | None = None,
    threads: int = 1,
    limit_s: float = LIMIT,
) -> dict[str, Any]:
    """Let a worker do one job.

    Args:
        tool: Whose environment it runs in.
        job: Plain JSON values; a `Path` reaches the worker as the text of an absolute one.
        out: Folder of its log; and of its scratch files, which are gone afterwards.
        where: The step, for errors.
        console: Progress.
        worker: File name in `workers/` without `.py`; None: the tool's name with `_` for `-`.
        threads: CPU threads that it may use.
        limit_s: Seconds after which it is killed.

    Returns:
        What its `main` gave back.

    Raises:
        MissingTool: The environment is not there, or broken; see `place.require`.
        StageFailed: The worker died, was killed, ran out of time, memory or disk. Its last lines are in the error.
        EdgekdError: What an engine of the runner in it has met, with that one's own exit code.
    """
    env = place.require(tool, where)
    name = worker or tool.replace("-", "_")
    out = out.resolve()  # the worker's own folder is its scratch folder
    with tempfile.TemporaryDirectory(dir=out, prefix=f".{name}-") as scratch:
        given, answer = Path(scratch) / "job.json", Path(scratch) / "result.json"
        plain = {key: str(value.resolve()) if isinstance(value, Path) else value for key, value in job.items()}
        given.write_text(json.dumps(plain, allow_nan=False), encoding="utf-8")
        line = [str(env.python), "-I", "-u", bootstrap.__file__, str(WORKERS / f"{name}.py"), str(given), str(answer)]
        ended = _run(line, out / f"{name}.log", environment(Path(scratch), threads), console, limit_s, where)
        if ended.code != 0:
            raise _failure(env, name, ended, where, limit_s)
        try:
            told = json.loads(answer.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StageFailed(where, f"worker {name} left no answer ({error})", "a JSON object") from error
    if not isinstance(told, dict):
        raise StageFailed(where, f"worker {name} left no answer but {str(told)[:80]}", "a JSON object")
    return told


def environment(scratch: Path, threads: int) -> dict[str, str]:
    """The environment of a worker: little of the caller's, no GPU, no network caches, temporary files in `scratch`."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    fixed = {"PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": "", "NO_COLOR": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    return {**kept, **fixed, **offline, "OMP_NUM_THREADS": str(threads), "TMPDIR": str(scratch)}


def _run(line: list[str], log: Path, variables: dict[str, str], console: Console, limit_s: float, where: str) -> _Ended:
    """Run to the end; what it started is ended with it."""
    last: deque[str] = deque(maxlen=LAST)
    late = threading.Event()
    try:
        process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", env=variables, cwd=variables["TMPDIR"], start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise MissingTool(where, f"{line[0]} cannot be started ({error.strerror})", "a working Python") from error

    def stop() -> None:
        late.set()
        _kill(process)

    timer = threading.Timer(limit_s, stop)
    timer.start()
    try:
        assert process.stdout is not None
        with log.open("w", encoding="utf-8") as file:
            for text in process.stdout:
                file.write(text)
                last.append(text.rstrip())
                if text.startswith(PROGRESS):
                    console.log(text.removeprefix(PROGRESS).rstrip())
        return _Ended(process.wait(), [text for text in last if text], late.is_set())
    finally:
        timer.cancel()
        _kill(process)
        process.wait()


def _kill(process: subprocess.Popen[str]) -> None:
    """End a worker and what it started: they are a group of their own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # all gone


def _failure(env: Env | BesideEnv, name: str, ended: _Ended, where: str, limit_s: float) -> EdgekdError:
    """How a worker ended, as an error."""
    said = _said(ended.last)
    who = f"worker {name} of tool {env.tool.name}"
    if ended.code == bootstrap.BROKEN:
        found = f"tool {env.tool.name} is broken: {said['found']}"
        expected = f"package {said['name'] or 'its packages'} as pinned"
        return MissingTool(where, found, expected, place.repair(env.tool.name))
    if ended.code == bootstrap.TOLD and said["reason"] in REASONS:
        place_of = f"{where}: {said['where']}"
        return revived(said["reason"], place_of, said["found"], said["expected"], said["hint"])
    if ended.code == bootstrap.DISK:
        return StageFailed(where, f"{who}: {said['found']}", "a writable folder with free space", "free some space")
    if ended.code == bootstrap.MEMORY:
        return StageFailed(where, f"{who}: {said['found']}", "more memory", "close other programs")
    how = f"was ended by signal {-ended.code}" if ended.code < 0 else f"ended with exit code {ended.code}"
    how = f"took more than {limit_s:g} s" if ended.late else how
    killed = ended.code == -signal.SIGKILL and not ended.late
    hint = "signal 9 is what the system sends when memory runs out" if killed else ""
    return StageFailed(where, "\n".join([f"{who} {how}", *ended.last]), "an answer", hint)


def _said(last: list[str]) -> dict[str, str]:
    """What the line of `bootstrap` says of an error; a broken tool may have printed anything in its place."""
    told = next((text for text in reversed(last) if text.startswith(bootstrap.SAYS)), bootstrap.SAYS)
    try:
        said = json.loads(told.removeprefix(bootstrap.SAYS))
    except ValueError:
        said = None
    known = said if isinstance(said, dict) else {}
    names = ("found", "name", "reason", "where", "expected", "hint")
    return {name: str(known.get(name) or "") for name in names}
