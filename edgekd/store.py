"""The artifacts of one workspace: found by key, made under a lock, published by one rename.

`<workspace>/artifacts/<step>/<key8>-<digest8>/manifest.json`. Scratch folders, locks and tags live under names with a
leading dot, outside every listing. Nothing is written or deleted through a symbolic link.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd import integrity, locks, records
from edgekd.artifact import FOLDER, ID, MANIFEST, SCHEMA, Artifact, payload_digest, read, sealed_bytes, sha256_file
from edgekd.durable import inside, sync, write_whole
from edgekd.errors import IntegrityError, UsageError

TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
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
        return max(found, key=age) if found else None

    def newest(self, step: str) -> Artifact | None:
        """The artifact of a step that was sealed last."""
        return max(self.of(step), key=age, default=None)

    def of(self, step: str, prefix: str = "") -> Iterator[Artifact]:
        """The artifacts of one step whose folder name starts with `prefix`."""
        folder = inside(self.workspace, self.root / step)
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
        return _sealed(path) if ID.fullmatch(name) and _is_artifact(path) else None

    def broken(self) -> list[Path]:
        """Folders that should be artifacts and whose manifest is damaged or gone."""
        return sorted(p for p in self._folders() if _sealed(p) is None)

    def leftovers(self) -> list[Path]:
        """Folders set aside by a removal or a remake that was cut short."""
        folders = (Path(top) / name for top, names, _ in self._walk() for name in names)
        return sorted(p for p in folders if p.name.startswith(".") and p.name.endswith((GONE, DAMAGED)))

    def unfinished(self) -> list[Path]:
        """Scratch folders of steps that were cut short."""
        return sorted(p for p in (self.root / ".scratch").glob("*") if p.is_dir() and not p.is_symlink())

    def _folders(self) -> list[Path]:
        found = (Path(top) / name for top, names, _ in self._walk() for name in names)
        return [path for path in found if _is_artifact(path)]

    def _walk(self) -> Iterator[tuple[str, list[str], list[str]]]:
        """Folders of steps, from the top; links are not followed, and what vanishes meanwhile is no error."""
        for top, names, files in os.walk(self.root):
            names[:] = [name for name in names if not (Path(top) / name).is_symlink()]
            yield top, list(names), files
            names[:] = [name for name in names if not name.startswith(".") and not _NAME.fullmatch(name)]

    def resolve(self, reference: str) -> Artifact:
        """An artifact by id, unique prefix (with or without its step), tag, or `latest`.

        Raises:
            UsageError: Nothing, or more than one, answers to the name.
            IntegrityError: What answers to it is damaged.
        """
        wanted = self.tags().get(reference, reference)
        exact = self.get(wanted)
        if exact is not None and exact.id == wanted:
            return exact
        known = self.all()
        if wanted == "latest" and known:
            return max(known, key=age)
        found = [a for a in known if a.id.startswith(wanted) or a.path.name.startswith(wanted)]
        if len(found) == 1:
            return found[0]
        for path in self.broken():
            if not found and wanted in (path.relative_to(self.root).as_posix(), path.name):
                read(path)
        names = ", ".join(a.id for a in found[:5]) if found else "no such artifact or tag here"
        raise UsageError(f"artifact {reference!r}", names, "exactly one artifact", "edgekd artifacts ls")

    def lock(self, step: str, key: str, waiting: Callable[[], object] | None = None) -> AbstractContextManager[None]:
        """One maker a key: a second process waits here, then finds what the first has made; see `locks.held`."""
        return self.lock_named(scratch_name(step, key), waiting)

    def lock_named(self, name: str, waiting: Callable[[], object] | None = None) -> AbstractContextManager[None]:
        """The lock of a scratch folder by its name; see `lock`."""
        return locks.held(self.workspace, self.root / ".locks" / f"{name}.lock", waiting)

    def begin(self, step: str, key: str) -> Scratch:
        """The scratch folder of a key: always the same one, so that a killed run finds its checkpoints. `out` is emptied.

        Raises:
            IntegrityError: A symbolic link is, or is in, the folder.
        """
        inside(self.workspace, self.root / step)
        root = inside(self.workspace, self.root / ".scratch" / scratch_name(step, key))
        scratch = Scratch(root, root / "out", root / "resume")
        for top, folders, files in os.walk(root):
            for name in (*folders, *files):
                inside(root, Path(top) / name)
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
        files = _entries(scratch.out, payload)
        missing = sorted(set(payload) - set(files))
        if missing:
            raise AssertionError(f"step {step} did not write {missing}")
        digest = payload_digest(files)
        serial = 1 + max((age(a)[0] for a in self.all()), default=0)
        manifest = {"schema": SCHEMA, "step": step, "key": key, "digest": digest, "files": files, **facts}
        write_whole(scratch.out / MANIFEST, sealed_bytes({**manifest, "serial": serial}))
        for name in files:
            sync(scratch.out / name)
        sync(scratch.out)
        final = self._free_name(inside(self.workspace, self.root / step / f"{key[:8]}-{digest[:8]}"), again)
        if final.exists() and not integrity.damage(final):
            shutil.rmtree(scratch.root)
            return read(final)
        if final.exists():  # damaged since it was sealed: the new one takes its place
            _set_aside(final, DAMAGED)
        final.parent.mkdir(parents=True, exist_ok=True)
        scratch.out.rename(final)
        sync(final.parent)
        shutil.rmtree(scratch.root)
        return read(final)

    def remove(self, path: Path) -> None:
        """Delete an artifact's folder: unlisted in one step, so that a kill here leaves no half artifact."""
        inside(self.workspace, path)
        if path.name.startswith("."):
            shutil.rmtree(path)
        else:
            _set_aside(path, GONE)

    def discard(self, path: Path) -> None:
        """Delete a scratch folder; see `unfinished`."""
        shutil.rmtree(inside(self.workspace, path))

    @staticmethod
    def _free_name(path: Path, again: bool) -> Path:
        number = 2
        candidate = path
        while again and candidate.exists():
            candidate = path.with_name(f"{path.name}.{number}")
            number += 1
        return candidate

    def tags(self) -> dict[str, str]:
        """{tag: artifact id}.

        Raises:
            IntegrityError: A tag is no file with an artifact's id.
        """
        found = {}
        for path in sorted(inside(self.workspace, self.root / ".tags").glob("[!.]*")):
            where, hint = f"tag {path.name}", f"remove {path}"
            name = records.read_text(path, where, hint).strip()
            if not TAG.fullmatch(path.name) or not ID.fullmatch(name):
                raise IntegrityError(where, f"is damaged ({name[:80]!r})", "an artifact's id", hint)
            found[path.name] = name
        return found

    def tag(self, name: str, artifact: Artifact) -> None:
        """Let a name point at an artifact; a tag may move, artifacts do not."""
        write_whole(inside(self.workspace, self.root / ".tags" / name), artifact.id.encode())


def scratch_name(step: str, key: str) -> str:
    """The name of a key's scratch folder and lock."""
    return f"{step.replace('/', '~')}-{key[:16]}"


_NAME = re.compile(FOLDER)


def _entries(folder: Path, payload: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The `files` of a manifest."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {
        name: {
            "sha256": sha256_file(folder / name),
            "bytes": (folder / name).stat().st_size,
            "payload": name in payload,
        }
        for name in names
    }


def _is_artifact(path: Path) -> bool:
    return _NAME.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()


def _set_aside(path: Path, ending: str) -> None:
    """Unlist a folder by one rename, then delete it."""
    aside = path.with_name(f".{path.name}{ending}")
    if aside.exists():  # a removal of the same name was cut short
        shutil.rmtree(aside)
    path.rename(aside)
    shutil.rmtree(aside)


def _sealed(path: Path) -> Artifact | None:
    """The artifact in a folder; None when its manifest is damaged or gone."""
    try:
        return read(path)
    except IntegrityError:
        return None


def age(artifact: Artifact) -> tuple[int, str, str]:
    """What orders artifacts by the time of their sealing; the clock decides only between those from before there were serials."""
    return int(artifact.manifest.get("serial", 0)), str(artifact.manifest.get("sealed_at", "")), str(artifact.path)
