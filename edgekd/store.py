"""The artifacts of one workspace: found by key, made under a lock, published by one rename.

`<workspace>/artifacts/<step>/<key8>-<digest8>/manifest.json`. Scratch folders, locks and tags live under names with a
leading dot, outside every listing.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from edgekd import integrity
from edgekd.artifact import MANIFEST, SCHEMA, Artifact, payload_digest, read, sha256_file
from edgekd.durable import sync, write_whole
from edgekd.errors import IntegrityError, StageFailed, UsageError

FOLDER = re.compile(r"[0-9a-f]{8}-[0-9a-f]{8}(\.[0-9]+)?")
GONE, DAMAGED = ".gone", ".damaged"


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
                artifact = _sealed(path) if path.name.startswith(prefix) and _is_artifact(path) else None
                if artifact is not None:
                    yield artifact

    def all(self) -> list[Artifact]:
        """Every sealed artifact, by id; a folder whose manifest is damaged is in `broken` instead."""
        return sorted((a for a in map(_sealed, self._folders()) if a is not None), key=lambda a: a.id)

    def get(self, name: str) -> Artifact | None:
        """The artifact of an id, read alone; None when it is not there or its manifest is damaged."""
        path = self.root / name
        return _sealed(path) if _is_artifact(path) else None

    def broken(self) -> list[Path]:
        """Folders that should be artifacts and whose manifest is damaged or gone."""
        return sorted(p for p in self._folders() if _sealed(p) is None)

    def leftovers(self) -> list[Path]:
        """Folders set aside by a removal or a remake that was cut short."""
        return sorted(p for p in self.root.rglob(".*") if p.name.endswith((GONE, DAMAGED)) and p.is_dir())

    def _folders(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        visible = (
            p for p in self.root.rglob("*") if not any(n.startswith(".") for n in p.relative_to(self.root).parts)
        )
        return [p for p in visible if _is_artifact(p)]

    def resolve(self, reference: str) -> Artifact:
        """An artifact by id, unique prefix (with or without its step), tag, or `latest`.

        Raises:
            UsageError: Nothing, or more than one, answers to the name.
        """
        wanted = self.tags().get(reference, reference)
        exact = self.get(wanted)
        if exact is not None and exact.id == wanted:
            return exact
        known = self.all()
        if wanted == "latest" and known:
            return max(known, key=_age)
        found = [a for a in known if a.id.startswith(wanted) or a.path.name.startswith(wanted)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(a.id for a in found[:5]) if found else "no such artifact or tag here"
        raise UsageError(f"artifact {reference!r}", names, "exactly one artifact", "edgekd artifacts ls")

    @contextmanager
    def lock(self, step: str, key: str, *, wait: bool = True) -> Iterator[None]:
        """One maker a key: a second process waits here, then finds what the first has made.

        Raises:
            StageFailed: `wait` is False and another process holds the lock.
        """
        with self.lock_named(scratch_name(step, key), wait=wait):
            yield

    @contextmanager
    def lock_named(self, name: str, *, wait: bool = True) -> Iterator[None]:
        """The lock of a scratch folder by its name; see `lock`."""
        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout as error:
            raise StageFailed(
                name, "another process is making it", "no other process at work", "wait for it"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def begin(self, step: str, key: str) -> Scratch:
        """The scratch folder of a key: always the same one, so that a killed run finds its checkpoints. `out` is emptied."""
        root = self.root / ".scratch" / scratch_name(step, key)
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
        digest = payload_digest(files)
        manifest = {"schema": SCHEMA, "step": step, "key": key, "digest": digest, "files": files, **facts}
        write_whole(scratch.out / MANIFEST, integrity.sealed_bytes(manifest))
        for name in files:
            sync(scratch.out / name)
        sync(scratch.out)
        final = self._free_name(self.root / step / f"{key[:8]}-{digest[:8]}", again)
        if final.exists() and not integrity.damage(final):
            shutil.rmtree(scratch.root)
            return read(final)
        if final.exists():  # damaged since it was sealed: the new one takes its place
            aside = final.with_name(f".{final.name}{DAMAGED}")
            final.rename(aside)
            shutil.rmtree(aside)
        final.parent.mkdir(parents=True, exist_ok=True)
        scratch.out.rename(final)
        sync(final.parent)
        shutil.rmtree(scratch.root)
        return read(final)

    def remove(self, path: Path) -> None:
        """Delete an artifact's folder: unlisted in one step, so that a kill here leaves no half artifact."""
        doomed = path if path.name.startswith(".") else path.with_name(f".{path.name}{GONE}")
        if doomed != path:
            path.rename(doomed)
        shutil.rmtree(doomed)

    @staticmethod
    def _free_name(path: Path, again: bool) -> Path:
        number = 2
        candidate = path
        while again and candidate.exists():
            candidate = path.with_name(f"{path.name}.{number}")
            number += 1
        return candidate

    def tags(self) -> dict[str, str]:
        """{tag: artifact id}."""
        folder = self.root / ".tags"
        files = sorted(p for p in folder.glob("[!.]*") if p.is_file())
        return {p.name: p.read_text(encoding="utf-8").strip() for p in files}

    def tag(self, name: str, artifact: Artifact) -> None:
        """Let a name point at an artifact; a tag may move, artifacts do not."""
        write_whole(self.root / ".tags" / name, artifact.id.encode())


def scratch_name(step: str, key: str) -> str:
    """The name of a key's scratch folder and lock."""
    return f"{step.replace('/', '~')}-{key[:16]}"


def _is_artifact(path: Path) -> bool:
    return FOLDER.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()


def _sealed(path: Path) -> Artifact | None:
    """The artifact in a folder; None when its manifest is damaged or gone."""
    try:
        return read(path)
    except IntegrityError:
        return None


def _age(artifact: Artifact) -> tuple[str, str]:
    return str(artifact.manifest.get("sealed_at", "")), artifact.path.name
