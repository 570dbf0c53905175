"""The fake board: a real sshd on 127.0.0.1 whose only command is an emulated aarch64 Linux, as long as a test needs it.

Keys, known_hosts and the client's configuration lie in the test's folder; nothing of the user's ~/.ssh is read or written.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.board import files

ALIAS = "fake-orin"
STARTS_WITHIN = 10.0  # seconds; sshd answers after some 50 ms
SERVER = """Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/hostkey
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
LogLevel VERBOSE
ForceCommand sh {folder}/device.sh
"""
CLIENT = """Host {alias}
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/key
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile /dev/null
"""


class Absent(Exception):
    """What this machine lacks to hold a fake board, in words."""


@dataclass
class Board:
    """One fake board.

    Attributes:
        folder: Its keys, logs and `files` (see `files.py`).
        root: The root file system that its sessions see.
        port: Of its sshd.
    """

    folder: Path
    root: Path
    port: int
    server: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def environment(self) -> dict[str, str]:
        """For edgekd: its SSH configuration knows the board by its alias and nothing else, and it has its own boards."""
        return {"EDGEKD_SSH_CONFIG": str(self.folder / "ssh_config"), "EDGEKD_CONFIG": str(self.folder / "config")}

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """A shell command on the board over SSH; exit code, stdout and stderr are its own."""
        options = ["-F", str(self.folder / "ssh_config"), "-o", "BatchMode=yes", ALIAS, command]
        return subprocess.run([_program("ssh"), *options], capture_output=True, text=True, check=False)

    def file(self, name: str) -> Path:
        """One of the board's files, by its path there."""
        return self.folder / "files" / name.lstrip("/")

    def start(self) -> None:
        """Start sshd and wait until it answers.

        Raises:
            Absent: It does not.
        """
        with (self.folder / "sshd.log").open("ab") as log:
            command = [_program("sshd"), "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self.server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        limit = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < limit and self.server.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)
        self.stop()
        raise Absent(f"sshd does not start: {(self.folder / 'sshd.log').read_text()[-500:]}")

    def stop(self) -> None:
        """End sshd: connections are refused from now on. Sessions live on, as with a real one."""
        if self.server is not None:
            self.server.kill()
            self.server.wait()
            self.server = None

    def cut(self) -> int:
        """Kill the server's end of every connection, as a pulled cable does once both have noticed; gives how many."""
        ends = _children(self.server.pid) if self.server is not None else []
        for pid in [*ends, *(child for end in ends for child in _children(end) if words(child).startswith("sshd"))]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(ends)

    def kill(self, word: str) -> int:
        """SIGKILL every process on the board whose command line holds a word; gives how many."""
        found = [pid for pid in self.processes() if word in words(pid) and "qemu" in words(pid).split(" ")[0]]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(found)

    def reboot(self) -> None:
        """Everything that runs on it ends, connections too; it comes back with another boot_id."""
        self.cut()
        self.end_sessions()
        files.new_boot(self.folder)

    def end_sessions(self) -> None:
        """Kill whatever still runs on the board."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def processes(self) -> list[int]:
        """Everything that runs on the board, whatever became of its session: its environment names the board's folder."""
        mark = f"\0PROOT_TMP_DIR={self.folder}\0".encode()
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in b"\0" + (place / "environ").read_bytes():
                    found.append(int(place.name))
        return found


@contextlib.contextmanager
def running(folder: Path, root: Path) -> Iterator[Board]:
    """A board in a folder of its own, its sshd started; at the end nothing of it runs any more.

    Raises:
        Absent: A program is not installed, or sshd does not start.
    """
    for name in ("sshd", "ssh", "ssh-keygen", "proot", "qemu-aarch64-static"):
        _program(name)
    board = Board(folder, root, _free_port())
    _lay(board)
    try:
        board.start()
        yield board
    finally:
        board.cut()
        board.stop()
        board.end_sessions()


def make_key(path: Path) -> None:
    """An ed25519 key without a passphrase, and its `.pub`."""
    for old in (path, path.with_name(path.name + ".pub")):
        old.unlink(missing_ok=True)
    options = ["-q", "-t", "ed25519", "-N", "", "-C", "edgekd fake board", "-f", str(path)]
    subprocess.run([_program("ssh-keygen"), *options], check=True, stdin=subprocess.DEVNULL)


def trust(board: Board, key: Path | None = None) -> None:
    """Let the client expect this host key (its own, unless another is given)."""
    public = (key or board.folder / "hostkey").with_suffix(".pub").read_text()
    (board.folder / "known_hosts").write_text(f"[127.0.0.1]:{board.port} {public}")


def _lay(board: Board) -> None:
    folder = board.folder
    folder.mkdir(parents=True, exist_ok=True)
    files.lay(folder, board.root)
    for name in ("hostkey", "key"):
        make_key(folder / name)
    shutil.copy(folder / "key.pub", folder / "authorized_keys")
    trust(board)
    facts = {"folder": folder, "port": board.port, "alias": ALIAS, "user": getpass.getuser()}
    (folder / "sshd_config").write_text(SERVER.format(**facts))
    (folder / "ssh_config").write_text(CLIENT.format(**facts))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # a started system has made it: sshd's parts without rights live there


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/bin")
    if found is None:
        raise Absent(f"{name} is not installed: `make test-board` installs it")
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def words(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
