"""Artifact and Store: folders named by what went in and what came out, published by one rename.

`<workspace>/artifacts/<step>/<key8>-<digest8>/manifest.json`. Scratch folders live under `.scratch`, outside every listing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from edgekd.errors import IntegrityError, UsageError

SCHEMA = 1
MANIFEST = "manifest.json"


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8; the bytes that every key and digest hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


@dataclass(frozen=True)
class Scratch:
    """A folder in the making: `out` becomes the artifact, `resume` survives a kill."""

    root: Path
    out: Path
    resume: Path


class Store:
    """The artifacts of one workspace."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.root = workspace / "artifacts"

    # ---- finding -------------------------------------------------------------------------------------------------
    def find(self, step: str, key: str) -> Artifact | None:
        """The newest sealed artifact of a key, or None."""
        found = [a for a in self.of(step, key[:8]) if a.key == key]
        return max(found, key=_age) if found else None

    def newest(self, step: str) -> Artifact | None:
        """The artifact of a step that was sealed last."""
        return max(self.of(step), key=_age, default=None)

    def of(self, step: str, prefix: str = "") -> Iterator[Artifact]:
        """The artifacts of one step whose folder name starts with `prefix`."""
        folder = self.root / step
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                if path.name.startswith(prefix) and (path / MANIFEST).is_file() and not path.is_symlink():
                    yield read(path)

    def all(self) -> list[Artifact]:
        """Every sealed artifact, by id."""
        if not self.root.is_dir():
            return []
        manifests = [
            p
            for p in self.root.rglob(MANIFEST)
            if not any(part.startswith(".") for part in p.relative_to(self.root).parts)
        ]
        return sorted((read(p.parent) for p in manifests if not p.parent.is_symlink()), key=lambda a: a.id)

    def resolve(self, reference: str) -> Artifact:
        """An artifact by id, unique prefix (with or without its step), tag, or `latest`.

        Raises:
            UsageError: Nothing, or more than one, answers to the name.
        """
        tags = self.tags()
        wanted = tags.get(reference, reference)
        known = self.all()
        if wanted == "latest" and known:
            return max(known, key=_age)
        exact = [a for a in known if a.id == wanted]
        found = exact or [a for a in known if a.id.startswith(wanted) or a.path.name.startswith(wanted)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(a.id for a in found[:5]) if found else "no such artifact or tag here"
        raise UsageError(f"artifact {reference!r}", names, "exactly one artifact", "edgekd artifacts ls")

    # ---- making --------------------------------------------------------------------------------------------------
    @contextmanager
    def lock(self, step: str, key: str) -> Iterator[None]:
        """One maker a key: a second process waits here, then finds what the first has made."""
        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{step.replace('/', '~')}-{key[:16]}.lock"):
            yield

    def begin(self, step: str, key: str) -> Scratch:
        """The scratch folder of a key: always the same one, so that a killed run finds its checkpoints. `out` is emptied."""
        root = self.root / ".scratch" / f"{step.replace('/', '~')}-{key[:16]}"
        scratch = Scratch(root, root / "out", root / "resume")
        shutil.rmtree(scratch.out, ignore_errors=True)
        scratch.out.mkdir(parents=True)
        scratch.resume.mkdir(exist_ok=True)
        return scratch

    def seal(
        self,
        scratch: Scratch,
        step: str,
        key: str,
        payload: tuple[str, ...],
        facts: Mapping[str, Any],
        *,
        again: bool = False,
    ) -> Artifact:
        """Hash, fsync and publish a scratch folder by one rename.

        Args:
            scratch: From `begin`.
            step: The step's name.
            key: What went in.
            payload: Names of the files whose bytes are the result; the others are logs, timings, samples.
            facts: The rest of the manifest (params, inputs, metrics, versions ...).
            again: Keep this one beside an earlier result of the same id (a repeated measurement).
        """
        files = {
            name: {
                "sha256": sha256_file(scratch.out / name),
                "bytes": (scratch.out / name).stat().st_size,
                "payload": name in payload,
            }
            for name in sorted(p.relative_to(scratch.out).as_posix() for p in scratch.out.rglob("*") if p.is_file())
        }
        missing = sorted(set(payload) - set(files))
        if missing:
            raise AssertionError(f"step {step} did not write {missing}")
        digest = hashlib.sha256(canonical({name: files[name]["sha256"] for name in sorted(payload)})).hexdigest()
        manifest = {"schema": SCHEMA, "step": step, "key": key, "digest": digest, "files": files, **facts}
        _write_durably(scratch.out / MANIFEST, canonical_pretty(manifest))
        for name in files:
            _fsync(scratch.out / name)
        _fsync(scratch.out)
        final = self._free_name(self.root / step / f"{key[:8]}-{digest[:8]}", again)
        if final.exists():
            shutil.rmtree(scratch.root)
            return read(final)
        final.parent.mkdir(parents=True, exist_ok=True)
        scratch.out.rename(final)
        _fsync(final.parent)
        shutil.rmtree(scratch.root)
        return read(final)

    @staticmethod
    def _free_name(path: Path, again: bool) -> Path:
        number = 2
        candidate = path
        while again and candidate.exists():
            candidate = path.with_name(f"{path.name}.{number}")
            number += 1
        return candidate

    # ---- tags ----------------------------------------------------------------------------------------------------
    def tags(self) -> dict[str, str]:
        """{tag: artifact id}."""
        folder = self.root / ".tags"
        return (
            {p.name: p.read_text(encoding="utf-8").strip() for p in sorted(folder.glob("*"))} if folder.is_dir() else {}
        )

    def tag(self, name: str, artifact: Artifact) -> None:
        """Let a name point at an artifact; a tag may move, artifacts do not."""
        _write_durably(self.root / ".tags" / name, artifact.id.encode())


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
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{path.parent.name}/{path.name}/{MANIFEST}",
            f"is damaged ({error})",
            f"manifest schema {SCHEMA}",
            "edgekd artifacts gc, then run again",
        ) from error
    return Artifact(path, manifest)


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
    digest = hashlib.sha256(canonical({n: e["sha256"] for n, e in sorted(files.items()) if e["payload"]})).hexdigest()
    if digest != artifact.digest or not artifact.path.name.startswith(f"{artifact.key[:8]}-{artifact.digest[:8]}"):
        problems.append(f"{artifact.id}: {MANIFEST} does not match the artifact's id")
    expected = artifact.manifest.get("seal")
    if expected is not None and expected != manifest_seal(artifact.manifest):
        problems.append(f"{artifact.id}: {MANIFEST} has other contents than were sealed")
    return problems


def manifest_seal(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over the manifest without its own seal."""
    return hashlib.sha256(canonical({k: v for k, v in manifest.items() if k != "seal"})).hexdigest()


def canonical_pretty(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as people read it, sealed by a hash over its contents."""
    sealed = {**manifest, "seal": manifest_seal(manifest)}
    return (json.dumps(sealed, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file so that a reader sees the old or the new one, never a part."""
    _write_durably(path, data)


def _write_durably(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _age(artifact: Artifact) -> tuple[str, str]:
    return str(artifact.manifest.get("sealed_at", "")), artifact.path.name
