"""Whether an artifact still is what was sealed: every file, its manifest, its id."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.artifact import MANIFEST, Artifact, payload_digest, read, sha256_file
from edgekd.errors import IntegrityError


def damage(folder: Path) -> list[str]:
    """What is wrong with a sealed folder, one line each; empty when it is whole."""
    try:
        return verify(read(folder))
    except IntegrityError as error:
        return [f"{error.where}: {error.found}"]


def verify(artifact: Artifact) -> list[str]:
    """Recompute the hash of every file of an artifact, whose manifest `read` has checked; one line a difference."""
    problems = []
    files: Mapping[str, Any] = artifact.manifest["files"]
    for name, entry in files.items():
        path = artifact.path / name
        if not path.is_file() or path.is_symlink():
            problems.append(f"{artifact.id}: {name} is missing")
        elif sha256_file(path) != entry["sha256"]:
            problems.append(f"{artifact.id}: {name} has other bytes than were sealed")
    extra = sorted(p.relative_to(artifact.path).as_posix() for p in artifact.path.rglob("*") if p.is_file())
    problems += [f"{artifact.id}: {name} was not sealed" for name in extra if name not in files and name != MANIFEST]
    if payload_digest(files) != artifact.digest:
        problems.append(f"{artifact.id}: {MANIFEST} does not match the artifact's id")
    return problems


def require(artifact: Artifact) -> None:
    """See that an artifact is whole before something is made from it.

    Raises:
        IntegrityError: It is not; says in what.
    """
    problems = verify(artifact)
    if problems:
        where, _, found = problems[0].partition(": ")
        hint = "edgekd artifacts gc --yes removes damaged artifacts; the same run then makes them anew"
        raise IntegrityError(where, "\n".join([found, *problems[1:]]), "the bytes that were sealed", hint)
