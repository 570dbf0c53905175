"""A bundle as a folder or as one tar, and whether it is the one that was made."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekd.commands import output
from edgekd.errors import IntegrityError, UsageError, revived
from edgekd.runner import bundle as bundles
from edgekd.runner import signature
from edgekd.runner import verify as runner_verify
from edgekd.runner.bundle import FILE, SIGNATURE, Bundle
from edgekd.runner.failure import INTEGRITY, REASONS, USAGE, RunnerError

TAR = ".tar"
MODE, PROGRAM_MODE = 0o644, 0o755
PROGRAM = ".pyz"


def verify(path: Path, public_key: str | None, json: bool) -> None:
    """Check every hash of a bundle, and with a public key its signature.

    Raises:
        UsageError: No bundle, or no public key.
        IntegrityError: A file is changed, missing, exchanged or too many, or the signature is not that key's.
    """
    with opened(path) as folder:
        found = checked(folder, public_key)
        signed = (folder / SIGNATURE).is_file()
    facts = {"bundle": str(path), "kind": found.kind, "target": found.target, "digest": found.digest}
    following = _selftest(path, public_key)
    if json:
        checks = {"files": found.files, "signed": signed, "signature_checked": public_key is not None}
        output.print_json({**facts, **checks, "next": following})
        return
    said = (
        "signed by that key" if public_key is not None else "its signature was not checked" if signed else "not signed"
    )
    output.say(
        f"{path}: {found.kind} bundle of {found.target}: {len(found.files)} files as bundle.json lists them; {said}"
    )
    output.say(f"bundle.json: SHA-256 {found.digest}")
    if public_key is None:
        output.say("without --public-key this says that the files fit bundle.json, not who wrote bundle.json")
    output.next_command(following)


def _selftest(path: Path, public_key: str | None) -> str:
    """The line that tests it, here as on a board; a tar is unpacked first."""
    folder = shlex.quote(str(path) if path.is_dir() else path.stem)
    key = f" --public-key {shlex.quote(public_key)}" if public_key is not None else ""
    unpack = "" if path.is_dir() else f"mkdir {folder} && tar -xf {shlex.quote(str(path))} -C {folder} && "
    return f"{unpack}python3 {folder}/runner.pyz selftest {folder}{key}"


def checked(folder: Path, public_key: str | None) -> Bundle:
    """The bundle in a folder, as the runner checks it before it loads anything.

    Raises:
        EdgekdError: As the runner says.
    """
    try:
        found = bundles.read(folder, None if public_key is None else signature.public_key(public_key))
        runner_verify.files(found)
    except RunnerError as error:
        spelled = error.exit_code == USAGE and (folder / FILE).is_file() and not error.where.startswith("--")
        code = INTEGRITY if spelled else error.exit_code  # a bundle.json that says nonsense is none that edgekd wrote
        raise revived(REASONS[code], error.where, error.found, error.expected, error.hint) from error
    return found


def pack(folder: Path, path: Path) -> None:
    """Write a folder's files as one tar: sorted, of no date and no owner, so that equal files give equal bytes."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for file in sorted(folder.iterdir()):
            entry = tarfile.TarInfo(file.name)
            entry.size, entry.mode = file.stat().st_size, PROGRAM_MODE if file.suffix == PROGRAM else MODE
            with file.open("rb") as source:
                archive.addfile(entry, source)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content.getvalue())
    partial.replace(path)


def put(folder: Path, path: Path) -> None:
    """Bring a finished bundle to its place, as a tar where the name says so; a bundle that is there gives way.

    Raises:
        UsageError: Something else is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == TAR:
        pack(folder, path)
        return
    if path.exists():
        shutil.rmtree(path)
    shutil.move(folder, path)


def require_free(path: Path) -> None:
    """See, before work, that nothing but an older bundle would be replaced.

    Raises:
        UsageError: Something else is there.
    """
    other = path.is_dir() if path.suffix == TAR else path.exists() and not (path / FILE).is_file()
    if path.is_symlink() or other:
        empty = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
        if not empty:
            raise UsageError(f"--output {path}", "is there and is no bundle", "a new name, or an older bundle")


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """The folder of a bundle; a tar is unpacked for as long as the block runs.

    Raises:
        UsageError: Neither a folder nor a tar.
        IntegrityError: The tar is damaged, or holds anything but plain files side by side.
    """
    if path.is_dir():
        yield path
        return
    if not path.is_file():
        raise UsageError(str(path), "no such folder or tar", "a bundle", "edgekd bundle --output DIR")
    with tempfile.TemporaryDirectory(prefix="edgekd-bundle-") as folder:
        try:
            _unpack(path, Path(folder))
        except (tarfile.TarError, EOFError) as error:
            raise IntegrityError(str(path), f"is no whole tar ({error})", "a bundle") from error
        if not (Path(folder) / FILE).is_file():
            raise UsageError(str(path), f"holds no {FILE}", "a bundle", "edgekd bundle --output FILE.tar")
        yield Path(folder)


def _unpack(path: Path, folder: Path) -> None:
    with tarfile.open(path, "r:") as archive:
        for entry in archive:
            source: Any = archive.extractfile(entry) if entry.isreg() else None
            plain = Path(entry.name).name == entry.name and entry.name not in ("", ".", "..")
            if source is None or not plain or (folder / entry.name).exists():
                raise IntegrityError(f"{path}: {entry.name!r}", "is no plain file of its own", "the files of a bundle")
            with (folder / entry.name).open("wb") as file:
                shutil.copyfileobj(source, file)
