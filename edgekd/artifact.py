"""An artifact: a sealed folder named by what went in and what came out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.errors import IntegrityError

SCHEMA = 1
MANIFEST = "manifest.json"


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8; the bytes that every key and digest hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def payload_digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    """What came out: SHA-256 over names and hashes of the payload files of a manifest's `files`, hex."""
    return hashlib.sha256(canonical({n: e["sha256"] for n, e in files.items() if e["payload"]})).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A sealed folder.

    Attributes:
        path: The folder.
        manifest: `manifest.json` as read.
    """

    path: Path
    manifest: Mapping[str, Any]

    @property
    def step(self) -> str:
        """The step that made it, e.g. `student` or `export/onnx`."""
        return str(self.manifest["step"])

    @property
    def key(self) -> str:
        """What went in: SHA-256, hex."""
        return str(self.manifest["key"])

    @property
    def digest(self) -> str:
        """What came out: SHA-256 over the payload, hex."""
        return str(self.manifest["digest"])

    @property
    def id(self) -> str:
        """`<step>/<key8>-<digest8>`, the name that people type."""
        return f"{self.step}/{self.path.name}"

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Figures with their units in their names."""
        return dict(self.manifest["metrics"])

    @property
    def inputs(self) -> Mapping[str, str]:
        """{role: artifact id} of what it was made from."""
        return {role: str(entry["id"]) for role, entry in self.manifest["inputs"].items()}

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(int(entry["bytes"]) for entry in self.manifest["files"].values())


def read(path: Path) -> Artifact:
    """The artifact in a folder.

    Raises:
        IntegrityError: Its manifest is no manifest.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        if manifest["schema"] != SCHEMA or not all(
            k in manifest for k in ("step", "key", "digest", "files", "metrics", "inputs")
        ):
            raise KeyError("schema")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise IntegrityError(
            f"{path.parent.name}/{path.name}/{MANIFEST}",
            f"is damaged ({error})",
            f"manifest schema {SCHEMA}",
            "edgekd artifacts gc, then run again",
        ) from error
    return Artifact(path, manifest)
