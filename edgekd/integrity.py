"""Whether an artifact still is what was sealed: every file, its manifest, its id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.artifact import MANIFEST, Artifact, payload_digest, read, sealed_bytes, sha256_file
from edgekd.errors import IntegrityError


@dataclass(frozen=True)
class Fault:
    """One thing that is not as it was sealed.

    Attributes:
        artifact: Id of the artifact.
        file: Name of the file in it; "": the artifact as a whole.
        found: What is there, in words.
        expected: What was sealed, for people or as a hash.
    """

    artifact: str
    file: str
    found: str
    expected: str

    @property
    def text(self) -> str:
        """One line."""
        return f"{self.artifact}: {self.file} {self.found}" if self.file else f"{self.artifact}: {self.found}"


def damage(folder: Path) -> list[str]:
    """What is wrong with a sealed folder, one line each; empty when it is whole."""
    try:
        return verify(read(folder))
    except IntegrityError as error:
        return [f"{error.where}: {error.found}"]


def verify(artifact: Artifact) -> list[str]:
    """Recompute the hash of every file of an artifact, whose manifest `read` has checked; one line a difference."""
    return [fault.text for fault in faults(artifact)]


def faults(artifact: Artifact) -> Iterator[Fault]:
    """The differences that `verify` says, one by one."""
    files: Mapping[str, Any] = artifact.manifest["files"]
    for name, entry in files.items():
        path, expected = artifact.path / name, f"SHA-256 {entry['sha256']}"
        if not path.is_file() or path.is_symlink():
            yield Fault(artifact.id, name, "is missing", expected)
        elif (found := sha256_file(path)) != entry["sha256"]:
            yield Fault(artifact.id, name, f"has other bytes than were sealed (SHA-256 {found})", expected)
    extra = sorted(p.relative_to(artifact.path).as_posix() for p in artifact.path.rglob("*") if p.is_file())
    for name in extra:
        if name not in files and name != MANIFEST:
            yield Fault(artifact.id, name, "was not sealed", "no such file")
    if payload_digest(files) != artifact.digest:
        yield Fault(artifact.id, MANIFEST, "does not match the artifact's id", f"digest {payload_digest(files)}")
    if (artifact.path / MANIFEST).read_bytes() != sealed_bytes(_unsealed(artifact.manifest)):
        yield Fault(artifact.id, MANIFEST, "is spelled otherwise than it was sealed", "the bytes that were sealed")


def _unsealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name != "seal"}


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
