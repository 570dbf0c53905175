"""The system's OpenSSH client: its command line, and what its last words mean."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path

from edgekd.errors import EdgekdError, IntegrityError, MissingTool, StageFailed, UsageError

LOST = 255  # ssh's own exit code; any other one is the command's
CONNECT_S, ALIVE_S, ALIVE_COUNT = 10, 10, 6  # a board that computes on all cores may be silent for a while
MOST_PATH = (
    40  # of the folder of the control socket: with its 40 characters and ssh's 17 below the 104 that a system allows
)
TOOL = ("no ssh here", "the OpenSSH client", "sudo apt-get install openssh-client")
SOCKETS = "edgekd-ssh-"  # then the process whose folder it is
# The last word may be lost with the connection: what it would have said is found by the same command all the same.
NOTHING = "as far as was heard nothing was measured yet: the same command begins again, or goes on from there"
KEPT = "kept on the board: the latency part and {answered:,} of {images:,} answers; the same command goes on from there"
# (in ssh's words, error, found, expected, what to do); the first that fits. {host}: as typed.
MEANINGS: tuple[tuple[str, type[EdgekdError], str, str, str], ...] = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        IntegrityError,
        "its host key is another one than before: another machine, or someone in between",
        "the host key of the SSH known_hosts file",
        "if the board was installed anew: ssh-keygen -R {name}, then ssh {host} once, comparing the fingerprint",
    ),
    (
        "Host key verification failed",
        MissingTool,
        "its host key is not known here",
        "a host key that you have compared",
        "ssh {host} once, comparing the fingerprint with the board's",
    ),
    ("Permission denied", MissingTool, "no key of yours is accepted", "a login by key", "ssh-copy-id {host}"),
    ("Too many authentication", MissingTool, "no key of yours is accepted", "a login by key", "ssh-copy-id {host}"),
    ("Could not resolve", MissingTool, "no such host", "a name that resolves", "edgekd devices show; or ~/.ssh/config"),
    ("Bad configuration option", MissingTool, "the SSH config is wrong", "one that ssh can read", "ssh -v {host}"),
    ("Bad owner or permissions", MissingTool, "the SSH config is refused", "a file of yours alone", "ssh -v {host}"),
    ("Can't open user config file", MissingTool, "no such SSH config", "a file", "EDGEKD_SSH_CONFIG, or ssh_options"),
)
UNREACHED = (
    ("Connection refused", "nothing listens there", "sudo systemctl start ssh  # on the board"),
    ("No route to host", "no way to it: is it on?", "ping it; see ~/.ssh/config"),
    ("Network is unreachable", "no way to it", "see this machine's network"),
    ("timed out", "does not answer: is it on?", "ping it; see ~/.ssh/config"),
)
NEVER = (
    "ssh: ",
    "kex_exchange_identification",
    "banner exchange",
)  # what begins a word of ssh before there is a connection


def quoted(argv: Sequence[str]) -> str:
    """A command line for the board's shell in which every word is exactly one word, whatever is in it.

    Raises:
        UsageError: A word holds a NUL, which no command line can.
    """
    if not argv or any("\0" in word for word in argv):
        raise UsageError("command for the board", "a NUL, or nothing at all", "words without NUL")
    return " ".join(map(shlex.quote, argv))


def program(source: str) -> str:
    """Python source as one printable line for `python -c`: no shell, and no line end, sees it."""
    packed = base64.b64encode(zlib.compress(source.encode(), 9)).decode()
    old = "import sys;sys.version_info[:2]>=(3,8) or sys.exit('edgekd: python '+sys.version.split()[0])"
    return f"{old};import base64,zlib;exec(zlib.decompress(base64.b64decode('{packed}')).decode())"


class Client:
    """Command lines of ssh for one host over one connection that several commands share.

    Args:
        host: `user@board` or a name of the SSH config.
        options: More options, after ours: where both say something, ours holds.
    """

    def __init__(self, host: str, options: Sequence[str]) -> None:
        self.host = host
        self._options = tuple(options)
        self._sockets: Path | None = None

    def argv(self, remote: Sequence[str]) -> list[str]:
        """ssh with a command for the board.

        Raises:
            MissingTool: There is no ssh.
        """
        return [self._ssh(), "-T", *self._settings(), *self._options, "--", self.host, quoted(remote)]

    def environment(self) -> dict[str, str]:
        """Ours, in the language whose words are read here."""
        return {**os.environ, "LC_ALL": "C"}

    def close(self) -> None:
        """End the shared connection."""
        if self._sockets is not None:
            _close(self._ssh(), self._settings(), self._options, self.host, self._sockets)
            self._sockets = None

    def _ssh(self) -> str:
        path = shutil.which("ssh")
        if path is None:
            raise MissingTool(self.host, *TOOL)
        return path

    def _settings(self) -> list[str]:
        if self._sockets is None:
            self._sockets = _private()
            weakref.finalize(
                self, _close, self._ssh(), self._pairs(self._sockets), self._options, self.host, self._sockets
            )
        return self._pairs(self._sockets)

    def _pairs(self, sockets: Path) -> list[str]:
        values = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "ConnectTimeout": CONNECT_S,
            "ServerAliveInterval": ALIVE_S,
            "ServerAliveCountMax": ALIVE_COUNT,
            "ControlMaster": "auto",
            "ControlPath": f"{sockets}/%C",
            "ControlPersist": 60,
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "ClearAllForwardings": "yes",
            "RequestTTY": "no",
            "LogLevel": "INFO",
        }
        return [word for name, value in values.items() for word in ("-o", f"{name}={value}")]


def kept(stderr: str) -> str:
    """What outlives the end of a command, by the runner's last word about it (`runner.partial`); empty: it said none."""
    found = ""
    for line in stderr.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            found = KEPT.format(**json.loads(line)["kept"])
    return found


def meaning(host: str, stderr: str, reached: bool, left: str = NOTHING) -> EdgekdError:
    """What ssh's exit 255 was.

    Args:
        host: As typed.
        stderr: ssh's words.
        reached: The board has answered before: it went away.
        left: What was measured before that, and what to type.
    """
    name = host.rpartition("@")[2]
    for words, kind, found, expected, hint in MEANINGS:
        if words in stderr:
            return kind(f"board {host}", found, expected, hint.format(host=host, name=name))
    own = [line for line in stderr.splitlines() if line.strip() and not line.startswith("{")]  # not the runner's
    last = (own or ["no word from ssh"])[-1][:200]
    for words, found, hint in () if reached else UNREACHED:
        if words in stderr:
            return MissingTool(f"board {host}", f"{found} ({words})", "a board that answers", hint)
    if not reached and last.startswith(NEVER):
        return MissingTool(f"board {host}", f"no connection ({last})", "a board that answers", f"ssh -v {host}")
    return StageFailed(f"board {host}", f"connection lost ({last})", "a connection that stays", left)


def _private() -> Path:
    """A folder of our own for the socket, with a short path: the system allows about a hundred characters."""
    prefix = f"{SOCKETS}{os.getpid()}-"
    made = Path(tempfile.mkdtemp(prefix=prefix))
    if len(str(made)) > MOST_PATH:
        made.rmdir()
        made = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    _sweep(made.parent)
    return made


def _sweep(folder: Path) -> None:
    """Remove what processes of ours left that were killed: nothing can be cleaned up after SIGKILL."""
    for path in folder.glob(f"{SOCKETS}*-*"):
        owner = path.name.removeprefix(SOCKETS).partition("-")[0]
        with contextlib.suppress(OSError):  # another process sweeps, too
            mine = path.lstat().st_uid == os.getuid() and path.is_dir() and not path.is_symlink()
            if mine and owner.isdecimal() and not (_lives(int(owner)) or any(map(_answers, path.iterdir()))):
                shutil.rmtree(path, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _answers(path: Path) -> bool:
    """Whether a connection still is behind a socket: that of a process which is not seen from here."""
    with socket.socket(socket.AF_UNIX) as tried:
        try:
            tried.connect(str(path))
        except OSError:
            return False
    return True


def _close(ssh: str, settings: Sequence[str], options: Sequence[str], host: str, sockets: Path) -> None:
    if not sockets.is_dir():
        return
    null = subprocess.DEVNULL
    if any(sockets.iterdir()):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            asked = [ssh, *settings, *options, "-O", "exit", "--", host]
            subprocess.run(asked, stdin=null, stdout=null, stderr=null, timeout=5)
    shutil.rmtree(sockets, ignore_errors=True)
