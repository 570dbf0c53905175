"""Files as a tar stream, and what a board's program says when it fails."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from edgekd.errors import EdgekdError, IntegrityError, MissingTool, StageFailed, UsageError

SUMS = "sums.json"  # the first member: {path: SHA-256}
MOST_SUMS = 1 << 22  # bytes of it
CHUNK = 1 << 20
NO_PROGRAM = (126, 127)  # a shell's exit codes for a program that does not start, or is not there
OLD_PYTHON = "edgekd: python "  # what a Python older than 3.8 says
ERRORS: dict[int, type[EdgekdError]] = {
    kind.exit_code: kind for kind in (UsageError, MissingTool, IntegrityError, StageFailed)
}


def send(files: Mapping[str, Path], stream: IO[bytes]) -> None:
    """Write files by their name there; of their modes only what is executable stays.

    Raises:
        BrokenPipeError: The other end reads no more.
    """
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name, path in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = path.stat().st_size, 0o755 if path.stat().st_mode & 0o100 else 0o644
            with path.open("rb") as file:
                archive.addfile(entry, file)
    stream.flush()


def receive(stream: IO[bytes], folder: Path, where: str) -> None:
    """Read the files of a stream whose first member holds their hashes.

    Raises:
        tarfile.TarError: It is no tar stream, or ends early.
        IntegrityError: A file has other bytes than were announced, is missing, or would lie outside.
    """
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        first = archive.next()
        head = archive.extractfile(first) if first is not None and first.name == SUMS else None
        if head is None:
            raise tarfile.ReadError("no sums")
        wanted: dict[str, str] = json.loads(head.read(MOST_SUMS))
        while (member := archive.next()) is not None:  # an iteration would begin again with the first
            source = archive.extractfile(member)
            if source is None or member.name not in wanted:
                raise IntegrityError(where, f"sent {member.name!r:.100}", "the files that it announced")
            _keep(source, _inside(folder, member.name, where), wanted.pop(member.name), where)
    if wanted:
        raise IntegrityError(where, f"did not send {', '.join(sorted(wanted))[:200]}", "every file that it announced")


def failure(host: str, python: str, code: int, said: str) -> EdgekdError:
    """What the program on the board, or the shell that should have started it, says of its end."""
    lines = said.strip().splitlines() or [""]
    try:
        fields = json.loads(lines[-1])
        kind = ERRORS[fields["exit_code"]]
        return kind(f"board {host}: {fields['where']}", fields["found"], fields["expected"], fields["hint"])
    except (ValueError, KeyError, TypeError):
        needed = "Python 3.8 or later and NumPy on the board"
    hint = "sudo apt-get install python3 python3-numpy  # on the board; or edgekd devices add --python"
    if code in NO_PROGRAM:
        return MissingTool(f"board {host}", f"{python}: no such Python", needed, hint)
    if lines[-1].startswith(OLD_PYTHON):
        return MissingTool(f"board {host}", f"{python} is {lines[-1].removeprefix(OLD_PYTHON)}", needed, hint)
    return StageFailed(f"board {host}", f"exit code {code}: {lines[-1][:200]}", "an answer in JSON")


def _keep(source: IO[bytes], path: Path, sha256: str, where: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    found = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in iter(lambda: source.read(CHUNK), b""):
            found.update(chunk)
            file.write(chunk)
    if found.hexdigest() != sha256:
        path.unlink()
        raise IntegrityError(where, f"{path.name} arrived with other bytes", f"SHA-256 {sha256}", "measure again")


def _inside(folder: Path, name: str, where: str) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
        raise IntegrityError(where, f"sent {name!r:.100}", "a plain relative path")
    return folder.joinpath(*parts)
