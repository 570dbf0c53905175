"""A board over the system's OpenSSH: one shared connection, and a small program of ours that the board's Python is handed.

Needs: ssh here; sshd and Python 3.8 or later on the board. Hosts, keys, jump hosts and ports are those of the user's SSH config.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import platform
import signal
import subprocess
import tarfile
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

from edgekd.artifact import sha256_file
from edgekd.errors import EdgekdError, StageFailed
from edgekd.transport import openssh, parcel
from edgekd.transport.base import Completed, Transport

REPORT = "edgekd-run "  # what the last line of a command's stderr begins with
PATIENCE_S, BEAT_S = 120.0, 15.0  # a lock unheard of for so long is nobody's; how often its holder is heard of
LOOK_S = 5.0  # how often a running command looks whether the lock is still its own
EVERYONE = "/tmp/edgekd-board.lock"  # on the board: what each account, whatever its folder, must lock to measure
END_S = 10.0  # for the lock's holder to go


class Link(Transport):
    """Runs commands on a board over SSH, and keeps what was brought there for the next time."""

    VERSION = 1

    def __init__(self, host: str, python: str = "python3", folder: str = "", ssh_options: Sequence[str] = ()) -> None:
        self.host = host
        self.python = python
        self.shares_files = False
        self._root = folder
        self._client = openssh.Client(host, ssh_options)
        self._reached = False
        self._held: dict[str, Any] = {}  # token and boot of the lock while it is ours
        self._left = openssh.NOTHING  # what was measured under it, and what to type if it is lost

    def facts(self) -> dict[str, Any]:
        """root, free (bytes), boot and python of the board.

        Raises:
            MissingTool: It cannot be reached, or has no Python.
            IntegrityError: Its host key is another one than before.
        """
        return self._ask("facts", {})

    def push(self, folder: Path) -> str:
        """Send the files that the board has not, by SHA-256; what else lies in that folder there is removed."""
        local = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        wanted = {name: sha256_file(path) for name, path in local.items()}
        known = self._ask("have", {"name": folder.name})
        lacking = {name: path for name, path in local.items() if known["files"].get(name) != wanted[name]}
        self.sent = (len(lacking), sum(path.stat().st_size for path in lacking.values()))
        if lacking or set(known["files"]) != set(wanted):
            with (
                self._talk("take", {"name": folder.name, "files": wanted}) as child,
                contextlib.suppress(BrokenPipeError),
            ):
                parcel.send(lacking, _pipe(child.stdin))  # a board that refuses ends the pipe, then says why
        return str(known["there"])

    def run(self, argv: Sequence[str]) -> Completed:
        """Run a command and wait; it is killed there when this end goes away."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            with self._talk("run", {"argv": list(argv), "look_s": LOOK_S, **self._held}, out, err) as child:
                child.wait()
            words, _, told = _text(err).rpartition(REPORT)
            report = json.loads(told or "{}")
            if "code" not in report:
                raise StageFailed(f"board {self.host}", f"{words[-200:]!r}", "a report of how the command ended")
            self._left = openssh.kept(words) or self._left
            self._require_end(argv[0], report)
            return Completed(int(report["code"]), _text(out), words.removesuffix("\n"))

    def start(self, argv: Sequence[str]) -> subprocess.Popen[str]:
        """Start a command to be talked to; ssh's exit code is the command's, 255 a lost connection."""
        pipe, environment = subprocess.PIPE, self._client.environment()
        return subprocess.Popen(
            self._client.argv(argv), stdin=pipe, stdout=pipe, stderr=pipe, text=True, errors="replace", env=environment
        )

    def pull(self, there: str, folder: Path) -> None:
        """Bring the files; each one's SHA-256 is checked."""
        with self._talk("give", {"name": self._name(there)}) as child:
            try:
                parcel.receive(_pipe(child.stdout), folder, f"board {self.host}")
            except (tarfile.TarError, EOFError) as error:
                if child.wait() == 0:  # else what it says of its end is the reason
                    raise self._chatty("is no tar stream") from error

    def clear(self, there: str) -> None:
        """Remove a folder below the one where files go."""
        self._ask("clear", {"name": self._name(there)})
        self._left = openssh.NOTHING

    @contextmanager
    def held(self, log: Callable[[str], object]) -> Iterator[None]:
        """Hold the board's lock, in a process there that lives while this one is heard of."""
        own = {"token": uuid.uuid4().hex, "owner": getpass.getuser(), "host": platform.node()}
        stop = threading.Event()
        with self._talk("hold", {**own, "patience_s": PATIENCE_S, "everyone": EVERYONE}) as child:
            line = _pipe(child.stdout).readline()
            if not line:
                return  # the end of the conversation says why
            said = self._heard(line)
            self._require_own(said, log)
            self._held, self._left = {"token": own["token"], "boot": said["boot"]}, openssh.NOTHING
            beating = threading.Thread(target=_beat, args=(_pipe(child.stdin), stop), daemon=True)
            beating.start()
            try:
                yield
            finally:
                self._held = {}
                stop.set()
                beating.join()
                _hang_up(child)

    def _heard(self, line: bytes) -> dict[str, Any]:
        try:
            said: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise self._chatty(f"{line.decode('utf-8', 'replace').strip()!r:.100} is no answer") from error
        return said

    def _chatty(self, found: str) -> StageFailed:
        words = f"what came {found}: does its shell print something at login?"
        return StageFailed(f"board {self.host}", words, "a silent shell", f"ssh {self.host} true  # prints nothing")

    def _name(self, there: str) -> str:
        """A folder on the board, relative to the one where files go."""
        return str(PurePosixPath(there).relative_to(self._where))

    @property
    def _where(self) -> str:
        if not self._root:
            self._root = str(self.facts()["root"])
        return self._root

    def _ask(self, verb: str, job: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a verb that needs nothing from here."""
        with tempfile.TemporaryFile() as out:
            with self._talk(verb, job, out) as child:
                child.wait()
            lines = _text(out).strip().splitlines() or [""]
        try:
            answer: dict[str, Any] = json.loads(lines[-1])
        except ValueError as error:
            raise StageFailed(f"board {self.host}", f"{lines[-1]!r:.200}", "an answer in JSON") from error
        return answer

    @contextmanager
    def _talk(
        self, verb: str, job: Mapping[str, Any], out: IO[bytes] | None = None, err: IO[bytes] | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """The running verb, its end judged; stdin stays open until the block ends. `out` and `err` get its streams."""
        words = ["-c", _source(), verb, json.dumps({**job, "root": self._root})]
        with contextlib.ExitStack() as stack:
            said = err if err is not None else stack.enter_context(tempfile.TemporaryFile())
            child = subprocess.Popen(
                self._client.argv([self.python, *words]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if out is None else out,
                stderr=said,
                env=self._client.environment(),
            )
            try:
                yield child
                _hang_up(child, None)
            finally:
                _drop(child)
            self._require_answer(child.returncode, _text(said))

    def _require_answer(self, code: int, said: str) -> None:
        """Raise what a verb's end says."""
        if code == openssh.LOST:
            self._left = openssh.kept(said) or self._left
            raise self._restarted() or openssh.meaning(self.host, said, self._reached, self._left)
        self._reached = True
        if code != 0:
            raise parcel.failure(self.host, self.python, code, said)

    def _restarted(self) -> EdgekdError | None:
        """That the board was started again while its lock was ours, if it answers already and says so."""
        before, self._held = self._held.get("boot"), {}
        if not before:
            return None
        with contextlib.suppress(EdgekdError):  # it does not answer: the connection is lost, for whatever reason
            if self.facts()["boot"] != before:
                found, expected = "was started again in mid-run", "a board that stays on"
                return StageFailed(f"board {self.host}", found, expected, self._left)
        return None

    def _require_end(self, name: str, report: Mapping[str, Any]) -> None:
        """Raise unless the command ended by itself."""
        name = PurePosixPath(name).name
        if report["gone"]:
            raise StageFailed(f"board {self.host}", f"{name} was stopped: {report['gone']}", "one user of the board")
        if report["code"] >= 0:
            return
        number = -int(report["code"])
        signalled = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        short = "the board ran out of memory" if report["out_of_memory"] else "out of memory?"
        why = short if number == signal.SIGKILL else "see its system log"
        hint = f"swap or a smaller model; {self._left}"
        raise StageFailed(f"board {self.host}", f"{name} was killed by {signalled} ({why})", "a worker that ends", hint)

    def _require_own(self, said: Mapping[str, Any], log: Callable[[str], object]) -> None:
        """Raise unless the lock is ours; tell of one that nobody held any more."""
        if said["held"]:
            if said["recovered"] is not None:
                log(f"board {self.host}: lock of {_who(said['recovered'])} recovered: {said['why']}")
            return
        found = f"is in use by {_who(said['lock'])} for {_age(said['age_s'])} (heard of {_age(said['silent_s'])} ago)"
        raise StageFailed(f"board {self.host}", found, "one user at a time", "wait for it, or another --device")


@cache
def _source() -> str:
    return openssh.program(Path(__file__).with_name("onboard.py").read_text(encoding="utf-8"))


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # asked for with PIPE
    return stream


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def _beat(stream: IO[bytes], stop: threading.Event) -> None:
    """Be heard of until told to stop, or the connection is gone."""
    with contextlib.suppress(OSError, ValueError):
        while not stop.wait(BEAT_S):
            stream.write(b"\n")
            stream.flush()


def _hang_up(child: subprocess.Popen[bytes], seconds: float | None = END_S) -> None:
    """End its stdin and wait."""
    with contextlib.suppress(OSError):
        _pipe(child.stdin).close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(seconds)


def _drop(child: subprocess.Popen[bytes]) -> None:
    """Leave nothing behind, however the conversation ended."""
    if child.poll() is None:
        child.kill()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    child.wait()


def _who(lock: Mapping[str, Any]) -> str:
    owner, host, pid = (str(lock.get(key, "?"))[:60] for key in ("owner", "host", "pid"))
    return f"{owner}@{host} (process {pid} on the board)"


def _age(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
