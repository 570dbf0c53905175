"""Whether an artifact still is what was sealed: every file, its manifest, its id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.artifact import MANIFEST, Artifact, canonical, payload_digest, read, sha256_file
from edgekd.errors import IntegrityError


def damage(folder: Path) -> list[str]:
    """What is wrong with a sealed folder, one line each; empty when it is whole."""
    try:
        return verify(read(folder))
    except IntegrityError as error:
        return [f"{error.where}: {error.found}"]


def verify(artifact: Artifact) -> list[str]:
    """Recompute every hash of an artifact; one line a difference, empty when whole."""
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
    if payload_digest(files) != artifact.digest or not artifact.path.name.startswith(
        f"{artifact.key[:8]}-{artifact.digest[:8]}"
    ):
        problems.append(f"{artifact.id}: {MANIFEST} does not match the artifact's id")
    if artifact.manifest.get("seal") != manifest_seal(artifact.manifest):
        problems.append(f"{artifact.id}: {MANIFEST} has other contents than were sealed")
    return problems


def manifest_seal(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over the manifest without its own seal."""
    return hashlib.sha256(canonical({k: v for k, v in manifest.items() if k != "seal"})).hexdigest()


def sealed_bytes(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as people read it, sealed by a hash over its contents."""
    sealed = {**manifest, "seal": manifest_seal(manifest)}
    return (json.dumps(sealed, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()
