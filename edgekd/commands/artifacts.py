"""`edgekd artifacts ls|show|verify|tag|gc`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from edgekd import artifact as store_module
from edgekd.artifact import Artifact, Store
from edgekd.commands import current, output
from edgekd.errors import IntegrityError, UsageError

TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


def ls(workspace: Path, json: bool) -> None:
    """Every artifact with its tags and its main figure."""
    store = Store(workspace)
    tags: dict[str, list[str]] = {}
    for name, target in store.tags().items():
        tags.setdefault(target, []).append(name)
    found = store.all()
    if json:
        listing = [
            {
                "id": a.id,
                "bytes": a.bytes,
                "tags": tags.get(a.id, []),
                "sealed_at": a.manifest["sealed_at"],
                "metrics": a.metrics,
            }
            for a in found
        ]
        output.print_json({"artifacts": listing})
        return
    rows = [
        (a.id, output.size(a.bytes), _figure(a), str(a.manifest["sealed_at"])[:19], " ".join(tags.get(a.id, [])))
        for a in found
    ]
    output.print_table(("artifact", "size", "figure", "made (UTC)", "tags"), rows, right=("size",))
    output.next_command("edgekd artifacts show latest" if found else "edgekd run --recipe quickstart")


def show(workspace: Path, reference: str, json: bool) -> None:
    """One artifact's manifest."""
    artifact = current.resolve(workspace, reference)
    if json:
        output.print_json({"id": artifact.id, "manifest": artifact.manifest})
        return
    rows: list[tuple[str, Any]] = [
        ("id", artifact.id),
        ("folder", artifact.path),
        ("key", artifact.key),
        ("digest", artifact.digest),
    ]
    rows += [(f"input {role}", name) for role, name in artifact.inputs.items()]
    rows += [(f"param {name}", value) for name, value in artifact.manifest["params"].items()]
    rows += [(name, value) for name, value in artifact.metrics.items()]
    rows += [
        (f"file {name}", f"{output.size(entry['bytes'])}  sha256 {entry['sha256'][:16]}")
        for name, entry in artifact.manifest["files"].items()
    ]
    rows += [
        (name, artifact.manifest[name])
        for name in ("seed", "threads", "duration_s", "sealed_at", "versions", "source", "host")
    ]
    output.print_table(("what", "value"), rows)
    output.next_command(f"edgekd artifacts verify {artifact.id}")


def verify(workspace: Path, reference: str | None, json: bool) -> None:
    """Recompute the hashes of one artifact or all.

    Raises:
        IntegrityError: Something is not as it was sealed.
    """
    store = Store(workspace)
    chosen = store.all() if reference is None else [current.resolve(workspace, reference)]
    problems = [line for artifact in chosen for line in store_module.verify(artifact)]
    if problems:
        raise IntegrityError(
            problems[0].partition(": ")[0],
            "\n".join([problems[0].partition(": ")[2], *problems[1:]]),
            "the bytes that were sealed",
            "remove that folder and run again: it is made anew",
        )
    if json:
        output.print_json({"verified": [a.id for a in chosen]})
        return
    output.say(f"{len(chosen)} artifacts, {output.size(sum(a.bytes for a in chosen))}: every byte as sealed")
    output.next_command("edgekd report")


def tag(workspace: Path, name: str, reference: str) -> None:
    """Point a tag at an artifact."""
    if not TAG.fullmatch(name) or name == "latest":
        raise UsageError(
            f"tag {name!r}",
            "is no tag name",
            "letters, digits and . _ @ -, not `latest`",
            "edgekd artifacts tag prod export/onnx-int8",
        )
    artifact = current.resolve(workspace, reference)
    store = Store(workspace)
    before = store.tags().get(name)
    store.tag(name, artifact)
    output.say(f"{name} -> {artifact.id}" + (f" (was {before})" if before else ""))
    output.next_command(f"edgekd artifacts show {name}")


def gc(workspace: Path, yes: bool, json: bool) -> None:
    """Remove what nothing needs; without `yes` only say so."""
    store = Store(workspace)
    found = store.all()
    kept = needed(workspace, found)
    rows = [a for a in found if a.id not in kept]
    scratch = sorted((store.root / ".scratch").glob("*")) if (store.root / ".scratch").is_dir() else []
    if yes:
        for artifact in rows:
            doomed = artifact.path.with_name(f".{artifact.path.name}.gone")
            artifact.path.rename(doomed)  # unlisted in one step: a kill here leaves no half artifact
            shutil.rmtree(doomed)
        for folder in scratch:
            shutil.rmtree(folder)
    freed = sum(a.bytes for a in rows) + sum(
        p.stat().st_size for f in scratch if f.is_dir() for p in f.rglob("*") if p.is_file()
    )
    if json:
        output.print_json(
            {"removed" if yes else "removable": [a.id for a in rows], "unfinished": len(scratch), "bytes": freed}
        )
        return
    for artifact in rows:
        output.say(f"{'removed' if yes else 'would remove'} {artifact.id}  {output.size(artifact.bytes)}")
    output.say(
        f"{'freed' if yes else 'would free'} {output.size(freed)}; {len(kept)} artifacts and {len(scratch)} unfinished steps {'' if yes else 'seen'}".rstrip()
    )
    output.next_command("edgekd artifacts ls" if yes else "edgekd artifacts gc --yes")


def needed(workspace: Path, found: list[Artifact]) -> set[str]:
    """Ids that a tag or a recipe's last run names, and everything that those were made from."""
    by_id = {a.id: a for a in found}
    waiting = list(Store(workspace).tags().values())
    for run in current.all_runs(workspace):
        waiting += run.steps.values()
    kept: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in by_id and name not in kept:
            kept.add(name)
            waiting += by_id[name].inputs.values()
    return kept


def _figure(artifact: Artifact) -> str:
    metrics = artifact.metrics
    parts = []
    if "top1_percent" in metrics:
        parts.append(f"top-1 {metrics['top1_percent']:.2f} %")
    if "latency_p50_ms" in metrics:
        parts.append(f"p50 {metrics['latency_p50_ms']:.3f} ms")
    return ", ".join(parts)
