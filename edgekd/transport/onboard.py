"""What runs on a board for the SSH transport: `python3 -c THIS VERB JSON`. Standard library, Python 3.8, Linux.

An answer is one line of JSON on stdout; a failure is one line of JSON on stderr, as the runner's. Nothing is installed. It is one
file because it is handed over as one.

    facts   where files go, free bytes, boot
    have    SHA-256 of every file of a folder
    take    a tar stream from stdin into a folder; every file's SHA-256 is checked, other files are removed
    give    a folder's files to stdout as a tar stream, their SHA-256 first
    clear   remove a folder
    hold    the board's lock, and that of all its accounts and folders, until stdin ends or is silent
    run     a command, killed when stdin ends: the connection is lost, or the user interrupted
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import IO, Any, Dict, List, Optional, Tuple

CHUNK = 1 << 20
BOOT = Path("/proc/sys/kernel/random/boot_id")
SUMS, LOCK, REPORT, PART = "sums.json", "lock.json", "edgekd-run ", ".part"

Job = Dict[str, Any]


class Refusal(Exception):
    """A failure with the exit code that edgekd ends with."""

    def __init__(self, exit_code: int, where: str, found: str, expected: str = "", hint: str = "") -> None:
        super().__init__(found)
        self.fields = {"exit_code": exit_code, "where": where, "found": found, "expected": expected, "hint": hint}


def main(verb: str, job: Job) -> int:
    """Carry out one verb; gives the exit code."""
    try:
        answer = VERBS[verb](job)
    except Refusal as refusal:
        fields = refusal.fields
    except OSError as error:
        fields = refused(error, job)
    else:
        if answer is not None:
            print(json.dumps(answer), flush=True)
        return 0
    print(json.dumps(fields), file=sys.stderr, flush=True)
    return int(str(fields["exit_code"]))


def refused(error: OSError, job: Job) -> Dict[str, Any]:
    """The system's refusal as fields; a full disk says what is free."""
    found, expected, hint = error.strerror or str(error), "a folder that can be written", ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        found = f"{found}: {free(root(job)) / 2**20:.1f} MiB free"
        expected, hint = "room for the bundle", "free some space on the board, or another `folder` of it"
    return Refusal(7, str(error.filename or root(job)), found, expected, hint).fields


def root(job: Job) -> Path:
    """The folder for what is brought here, absolute."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    cache = Path(named) if named.startswith("/") else Path.home() / ".cache"
    return Path(job["root"]) if job.get("root") else cache / "edgekd"


def inside(job: Job, name: str) -> Path:
    """A path below the root; no symbolic link is followed below it."""
    place = root(job)
    for part in name.split("/"):
        if part in ("", ".", "..") or "\0" in part:
            raise Refusal(6, name, "leads out of its folder", "a plain relative path")
        place = place / part
        if place.is_symlink():
            raise Refusal(6, str(place), "is a symbolic link", "a file or folder", "remove the link")
    return place


def free(place: Path) -> int:
    """Free bytes of the disk that holds a path, which need not be there."""
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(str(place)).free


def boot_id() -> str:
    """Another one after each start of the board; empty where the system has none."""
    return (text(BOOT) or "").strip()


def text(path: Path) -> Optional[str]:
    """A file's text; None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def oom_kills() -> Optional[int]:
    """Programs that the kernel has killed for want of memory since the start; None where it does not count them."""
    rows = (line.split() for line in (text(Path("/proc/vmstat")) or "").splitlines())
    return next((int(words[1]) for words in rows if words[0] == "oom_kill"), None)


def facts(job: Job) -> Dict[str, Any]:
    """What the board is at this moment."""
    python = sys.version.split()[0]
    return {"root": str(root(job)), "free": free(root(job)), "boot": boot_id(), "python": python}


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            found.update(chunk)
    return found.hexdigest()


def files_of(folder: Path) -> List[str]:
    """Relative paths of the regular files below a folder, sorted."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def have(job: Job) -> Dict[str, Any]:
    """{"there", "files": {path: SHA-256}} of a folder of the root."""
    there = inside(job, job["name"])
    return {"there": str(there), "files": {path: digest(there / path) for path in files_of(there)}}


def take(job: Job) -> Dict[str, Any]:
    """Bring the folder to hold exactly `files`: {path: SHA-256}; what it lacks comes as a tar stream on stdin."""
    name, wanted = job["name"], job["files"]
    there = inside(job, name)
    there.mkdir(parents=True, exist_ok=True)
    for path in set(files_of(there)) - set(wanted):
        if not arriving(path):
            inside(job, name + "/" + path).unlink()
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as stream:
        for member in stream:
            source = stream.extractfile(member)
            if source is None or member.name not in wanted:
                raise Refusal(6, member.name, "was not announced", "the files of the bundle")
            receive(source, inside(job, name + "/" + member.name), wanted[member.name], member.mode & 0o777)
    return {"there": str(there)}


def receive(source: IO[bytes], path: Path, sha256: str, mode: int) -> None:
    """Write one file beside its place, check it, put it in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part, found = path.with_name("{}.{}{}".format(path.name, os.getpid(), PART)), hashlib.sha256()
    try:
        with part.open("wb") as file:
            for chunk in iter(lambda: source.read(CHUNK), b""):
                found.update(chunk)
                file.write(chunk)
        if found.hexdigest() != sha256:
            raise Refusal(6, str(path), "arrived with other bytes", f"SHA-256 {sha256}", "again; then check its disk")
        part.chmod(mode)
        part.replace(path)
    finally:
        if part.exists():
            part.unlink()


def arriving(path: str) -> bool:
    """Whether a file is what another process is receiving: two users may send the same one at the same time."""
    words = path.rsplit(".", 2)
    if len(words) < 3 or "." + words[2] != PART or not words[1].isdigit() or int(words[1]) == os.getpid():
        return False
    try:
        os.kill(int(words[1]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def give(job: Job) -> None:
    """Write a folder's files to stdout; the first member holds their hashes."""
    there = inside(job, job["name"])
    if not there.is_dir():
        raise Refusal(7, str(there), "is not there", "files of the device")
    sums = json.dumps({path: digest(there / path) for path in files_of(there)}).encode()
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as stream:
        head = tarfile.TarInfo(SUMS)
        head.size = len(sums)
        stream.addfile(head, io.BytesIO(sums))
        for path in json.loads(sums.decode()):
            stream.add(str(there / path), path, recursive=False)


def clear(job: Job) -> Dict[str, Any]:
    """Remove a folder of the root."""
    shutil.rmtree(str(inside(job, job["name"])), ignore_errors=True)
    return {}


def hold(job: Job) -> Optional[Dict[str, Any]]:
    """Take the lock and say so, then keep it while a line comes now and then; or say who has it."""
    path, everyone = inside(job, LOCK), everyones(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(LOCK + ".guard").open("w") as guard:  # two that come at once look one after the other
        fcntl.flock(guard, fcntl.LOCK_EX)
        held, silent = holder(path)
        why = "" if held is None else stale(held, silent, job["patience_s"])
        if held is not None and not why:
            return {"held": False, "lock": held, "silent_s": silent, "age_s": age(held)}
        other = taken(everyone)
        if other is not None:
            return {"held": False, "lock": other[0], "silent_s": other[1], "age_s": age(other[0])}
        own = {"token": job["token"], "owner": job["owner"], "host": job["host"], "pid": os.getpid()}
        words = json.dumps({**own, "boot": boot_id(), "start": time.time()})
        path.write_text(words, encoding="utf-8")
        if everyone is not None:
            os.ftruncate(everyone, 0)
            os.pwrite(everyone, words.encode(), 0)
    print(json.dumps({"held": True, "recovered": held, "why": why, **facts(job)}), flush=True)
    try:
        while select.select([0], [], [], job["patience_s"])[0] and os.read(0, 4096):
            os.utime(str(path))
            if everyone is not None:
                os.utime(everyone)
    finally:
        if mine(job):
            path.unlink()
    return None


def everyones(job: Job) -> Optional[int]:
    """The file whose lock is that of all accounts and folders of the board, opened; None where there is no place for it.

    Its lock ends with its process, so that a stale one cannot be; a file of another account is never created anew.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    for more in (0, os.O_CREAT | os.O_EXCL, 0):
        try:
            found = os.open(job["everyone"], flags | more, 0o666)
        except OSError:
            continue
        if more:
            os.fchmod(found, 0o666)  # whatever the umask: other accounts must be able to lock it
        return found
    return None


def taken(everyone: Optional[int]) -> Optional[Tuple[Dict[str, Any], float]]:
    """(who has the lock of all accounts, seconds since last heard of); None once it is ours."""
    if everyone is None:
        return None
    try:
        fcntl.flock(everyone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        return None
    try:
        said = json.loads(os.pread(everyone, 4096, 0).decode("utf-8", "replace"))
    except ValueError:
        said = {}
    return said if isinstance(said, dict) else {}, time.time() - os.fstat(everyone).st_mtime


def holder(path: Path) -> Tuple[Optional[Dict[str, Any]], float]:
    """(what the lock says, seconds since its holder was last heard of); (None, 0) without a lock."""
    said = text(path)
    if said is None:
        return None, 0.0
    try:
        found = json.loads(said)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}, time.time() - path.stat().st_mtime


def age(held: Dict[str, Any]) -> float:
    """Seconds since a lock was taken, as far as it says."""
    start = held.get("start")
    return max(time.time() - start, 0.0) if isinstance(start, (int, float)) else 0.0


def mine(job: Job) -> bool:
    """Whether the lock is this job's."""
    return bool((holder(inside(job, LOCK))[0] or {}).get("token") == job["token"])


def stale(held: Dict[str, Any], silent: float, patience: float) -> str:
    """Why a lock is of nobody any more; empty while somebody holds it."""
    if not held.get("token"):
        return "unreadable"
    if held.get("boot") != boot_id():
        return "the board was started again since"
    if silent > patience:
        return f"not heard of for {silent:.0f} s"
    try:
        os.kill(int(held["pid"]), 0)
    except ProcessLookupError:
        return "its process is gone"
    except (PermissionError, KeyError, TypeError, ValueError):
        return ""  # another account's process, or a lock of another make: only its silence tells
    return ""


def run(job: Job) -> None:
    """Run a command; its end is told on the last line of stderr, for a shell's exit code cannot tell how it ended."""
    kills, ended = oom_kills(), os.pipe()
    try:
        child = subprocess.Popen(job["argv"], stdin=subprocess.DEVNULL, start_new_session=True)
    except FileNotFoundError:
        found, expected = "no such program on the board", "a program of its PATH, or an absolute path"
        raise Refusal(5, job["argv"][0], found, expected) from None
    threading.Thread(target=lambda: (child.wait(), os.write(ended[1], b"x")), daemon=True).start()
    gone = watched(job, ended[0])
    if gone:
        os.killpg(child.pid, signal.SIGKILL)
    code, after = child.wait(), oom_kills()
    memory = kills is not None and after is not None and after > kills
    report = {"code": code, "gone": gone, "out_of_memory": memory, "free": free(root(job))}
    print("\n" + REPORT + json.dumps(report), file=sys.stderr, flush=True)


def watched(job: Job, ended: int) -> str:
    """Wait for a command's end; gives why it must be stopped, empty when it ended by itself."""
    while True:
        ready = select.select([0, ended], [], [], job["look_s"])[0]
        if ended in ready:
            return ""
        if ready and not os.read(0, 4096):
            return "the connection is lost"
        if job.get("token") and not mine(job):
            return "the board's lock is another's now"


VERBS = {"facts": facts, "have": have, "take": take, "give": give, "clear": clear, "hold": hold, "run": run}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1], json.loads(sys.argv[2])))
