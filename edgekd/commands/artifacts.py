"""`edgekd artifacts ls|show|verify|tag|gc`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd import integrity
from edgekd.analysis import marks
from edgekd.artifact import Artifact
from edgekd.commands import current, output, students
from edgekd.errors import IntegrityError, StageFailed, UsageError
from edgekd.store import TAG, Store


def ls(workspace: Path, json: bool) -> None:
    """Every artifact with its tags, its main figure and what the gate last said of it."""
    store = Store(workspace)
    tags: dict[str, list[str]] = {}
    for name, target in store.tags().items():
        tags.setdefault(target, []).append(name)
    found = store.all()
    gates = {a.id: mark for a in found if (mark := marks.read(workspace, a.id)) is not None}
    if json:
        listing = [
            {
                "id": a.id,
                "bytes": a.bytes,
                "tags": tags.get(a.id, []),
                "sealed_at": a.manifest.get("sealed_at", ""),
                "metrics": a.metrics,
                **({"gate": gates[a.id]} if a.id in gates else {}),
            }
            for a in found
        ]
        output.print_json({"artifacts": listing})
        return
    rows = [
        (
            a.id,
            output.size(a.bytes),
            _figure(a) + ("" if gates.get(a.id, {}).get("passed", True) else ", FAILED the gate"),
            str(a.manifest.get("sealed_at", ""))[:19],
            " ".join(tags.get(a.id, [])),
        )
        for a in found
    ]
    output.print_table(("artifact", "size", "figure", "made (UTC)", "tags"), rows, right=("size",))
    following = "edgekd artifacts show latest" if found else "edgekd run --recipe quickstart"
    output.next_command(following + current.option(workspace))


def show(workspace: Path, reference: str, json: bool) -> None:
    """One artifact's manifest."""
    artifact = current.resolve(workspace, reference)
    gate = marks.read(workspace, artifact.id)
    if json:
        output.print_json({"id": artifact.id, "manifest": artifact.manifest, **({"gate": gate} if gate else {})})
        return
    rows: list[tuple[str, Any]] = [
        ("id", artifact.id),
        ("folder", artifact.path),
        ("key", artifact.key),
        ("digest", artifact.digest),
    ]
    rows += [(f"input {role}", name) for role, name in artifact.inputs.items()]
    rows += [(f"param {name}", value) for name, value in artifact.manifest.get("params", {}).items()]
    rows += [(name, value) for name, value in artifact.metrics.items()]
    rows += [("gate", f"{gate['text']}; recipe {gate.get('recipe')}")] if gate else []
    rows += [
        (f"file {name}", f"{output.size(entry['bytes'])}  sha256 {entry['sha256'][:16]}")
        for name, entry in artifact.manifest["files"].items()
    ]
    rows += [
        (name, artifact.manifest[name])
        for name in ("seed", "threads", "duration_s", "sealed_at", "versions", "source", "host")
        if name in artifact.manifest
    ]
    output.print_table(("what", "value"), rows)
    output.next_command(f"edgekd artifacts verify {artifact.id}{current.option(workspace)}")


def verify(workspace: Path, reference: str | None, json: bool) -> None:
    """Recompute the hashes of one artifact or all; of all, also that nothing named by a tag, a run or an input is gone.

    Raises:
        IntegrityError: Something is not as it was sealed.
    """
    store = Store(workspace)
    chosen = store.all() if reference is None else [current.resolve(workspace, reference)]
    problems = [line for artifact in chosen for line in integrity.verify(artifact)]
    if reference is None:
        problems += [line for folder in store.broken() for line in integrity.damage(folder)]
        problems += _gone(workspace, chosen)
    if problems:
        where, _, found = problems[0].partition(": ")
        hint = "edgekd artifacts gc --yes removes damaged artifacts; the same run then makes them anew"
        raise IntegrityError(where, "\n".join([found, *problems[1:]]), "the bytes that were sealed", hint)
    if json:
        output.print_json({"verified": [a.id for a in chosen]})
        return
    output.say(f"{len(chosen)} artifacts, {output.size(sum(a.bytes for a in chosen))}: every byte as sealed")
    output.next_command(f"edgekd report{current.option(workspace)}")


def _gone(workspace: Path, found: list[Artifact]) -> list[str]:
    known = {a.id for a in found}
    named = {f"tag {tag}": name for tag, name in Store(workspace).tags().items()}
    named |= {
        f"run {run.name}, step {step}": name for run in current.all_runs(workspace) for step, name in run.steps.items()
    }
    named |= {f"{a.id}, input {role}": name for a in found for role, name in a.inputs.items()}
    return [f"{name}: is gone, and {who} names it" for who, name in named.items() if name not in known]


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
    output.next_command(f"edgekd artifacts show {name}{current.option(workspace)}")


def gc(workspace: Path, yes: bool, unfinished: bool, json: bool) -> None:
    """Remove what nothing needs and what is damaged; without `yes` only say so.

    Args:
        workspace: The workspace.
        yes: Delete.
        unfinished: Also the checkpoints of runs that were cut short.
        json: Print JSON.
    """
    store = Store(workspace)
    found = store.all()
    kept = needed(workspace, found)
    doomed = [a for a in found if a.id not in kept or integrity.verify(a)]
    folders = [*store.broken(), *store.leftovers()]
    scratch = store.unfinished()
    freed = sum(a.bytes for a in doomed) + sum(_bytes(f) for f in folders)
    if unfinished:
        freed += sum(_bytes(folder) for folder in scratch)
    busy = _remove(store, doomed, folders, scratch if unfinished else []) if yes else []
    gone = [a.id for a in doomed if a.id not in busy]
    for name in gone if yes else []:
        marks.drop(workspace, name)
    if json:
        facts = {"removed" if yes else "removable": gone, "busy": busy, "unfinished": len(scratch), "bytes": freed}
        output.print_json({**facts, "kept": sorted({a.id for a in found} - set(gone))})
        return
    for artifact in doomed:
        word = "in use, kept" if artifact.id in busy else "removed" if yes else "would remove"
        output.say(f"{word} {artifact.id}  {output.size(artifact.bytes)}")
    output.say(f"{'freed' if yes else 'would free'} {output.size(freed)}; {len(found) - len(gone)} artifacts stay")
    if scratch and not unfinished:
        output.say(f"{len(scratch)} unfinished steps keep their checkpoints (--unfinished removes them)")
    following = "edgekd artifacts ls" if yes else "edgekd artifacts gc --yes"
    output.next_command(following + current.option(workspace))


def _remove(store: Store, doomed: list[Artifact], folders: list[Path], scratch: list[Path]) -> list[str]:
    """Delete; what another process is making at this moment is left alone and given back."""
    busy = []
    for artifact in doomed:
        try:
            with store.lock(artifact.step, artifact.key):
                store.remove(artifact.path)
        except StageFailed:
            busy.append(artifact.id)
    for folder in folders:
        store.remove(folder)
    for folder in scratch:
        try:
            with store.lock_named(folder.name):
                store.discard(folder)
        except StageFailed:
            busy.append(folder.name)
    return busy


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def needed(workspace: Path, found: list[Artifact]) -> set[str]:
    """Ids that a tag, a recipe's last run, a comparison or a tuning names, and everything that those were made from."""
    by_id = {a.id: a for a in found}
    waiting = list(Store(workspace).tags().values())
    for run in current.all_runs(workspace):
        waiting += run.steps.values()
    waiting += students.recorded(workspace)
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
