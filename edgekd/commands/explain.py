"""`edgekd explain A B`: why two artifacts, runs or figures are not the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd import onnxfile, records
from edgekd.analysis.lineage import Chain, chain
from edgekd.artifact import MANIFEST, Artifact, read, sha256_file
from edgekd.commands import current, explained, output
from edgekd.commands.explained import Difference, Pair
from edgekd.errors import UsageError
from edgekd.manifest import Change, flat
from edgekd.store import Store

SHOWN = 12  # lines of one step
FIGURES = ("top1_percent", "latency_p50_ms")
# of a result.json: what was measured, not what it was measured with
MEASURED = (
    *("latency", "offline", "accuracy", "golden", "warm_up", "state", "parts", "power", "verdict", "reasons"),
    *("load_ms", "first_inference_ms", "peak_memory_mib", "runtime.import_ms"),
)


def explain(a: str, b: str, workspace: Path, json: bool) -> None:
    """Print the first step that differs, what differs in it, and what follows.

    Args:
        a: Artifact, tag, step of the current run, name of a run, folder of an artifact, ONNX file, or a JSON document of a
            bundle (`result.json`, `bundle.json`).
        b: Likewise.
        workspace: Where names are looked up.
        json: One document instead of text.

    Raises:
        UsageError: No such thing, or two of different kinds.
        IntegrityError: One of them is damaged.
    """
    documents = [name.endswith(".json") for name in (a, b)]
    if any(documents):
        _documents(a, b, all(documents), workspace, json)
        return
    one, other = (_steps(name, workspace) for name in (a, b))
    found = explained.pairs(one, other)
    differing = explained.differences(found)
    if json:
        output.print_json(_facts(a, b, found, differing))
        return
    if not differing:
        _say_same(found)
    else:
        _say_first(differing[0], found)
        _say_following(differing[1:])
    last = list(other.values())[-1]
    output.next_command(f"edgekd lineage {last.id} --verify{current.option(workspace)}")


def _steps(reference: str, workspace: Path) -> dict[str, Artifact]:
    """{step: artifact} of what a reference names, upstream first."""
    path, run = Path(reference), current.head(workspace)
    named = next((r for r in current.all_runs(workspace) if r.name == reference), None)
    if named is not None and (run is None or reference not in run.steps):
        found = Chain()
        for artifact in current.artifacts(workspace, named).values():
            found.artifacts.update(chain(Store(workspace), artifact).artifacts)
        return found.steps
    if (path / MANIFEST).is_file():
        artifact = read(path.resolve())
        root = artifact.path.parents[artifact.id.count("/")]  # .../artifacts
        return chain(Store(root.parent), artifact).steps
    store = Store(workspace)
    artifact = _of_file(path, store) if path.is_file() else current.resolve(workspace, reference)
    return chain(store, artifact).steps


def _of_file(path: Path, store: Store) -> Artifact:
    """The artifact that an exported file is from: by its bytes, else by what it says inside."""
    digest, known = sha256_file(path), store.all()
    holding = [a for a in known if any(entry["sha256"] == digest for entry in a.manifest["files"].values())]
    if holding:
        return next((a for a in holding if a.step.startswith("export/")), holding[0])
    said = onnxfile.metadata(onnxfile.load(path))
    inside = (said.get("graph_digest"), said.get("source_digest"))
    found = next((a for digest in inside for a in known if digest and a.digest == digest), None)
    if found is None:
        origin = said.get("graph") or said.get("source") or "nothing"
        raise UsageError(
            str(path), f"says it was made from {origin}, which is not here", "a file exported from this workspace"
        )
    return found


def _say_same(found: Sequence[Pair]) -> None:
    output.say(f"the same: {len(found)} steps, equal keys and equal bytes")
    pair = found[-1]
    assert pair.a is not None and pair.b is not None
    if pair.a.path == pair.b.path:
        return
    for change in explained.outside(pair):
        output.say(f"  beside the key, {change.name}: {change.before} -> {change.after}")
    _say_figures(pair)


def _say_first(first: Difference, found: Sequence[Pair]) -> None:
    pair = first.pair
    before = [p.step for p in found[: found.index(pair)]]
    output.say(f"the same up to here: {', '.join(before)}" if before else "nothing before it is the same")
    if first.reason in ("only in A", "only in B"):
        artifact = pair.a or pair.b
        assert artifact is not None
        output.say(f"first difference: {pair.step}, {first.reason} ({artifact.id})")
        return
    assert pair.a is not None and pair.b is not None
    output.say(f"first difference: {pair.step}  ({pair.a.id} -> {pair.b.id})")
    if first.reason == "bytes":
        output.say("  same key, other bytes: it was made from the same and did not come out the same")
        _lines([f"beside the key, {c.name}: {c.before} -> {c.after}" for c in explained.outside(pair)])
        return
    _lines([explained.text(change, pair) for change in (*first.own, *first.inputs)])


def _say_following(rest: Sequence[Difference]) -> None:
    plain = [d.pair.step for d in rest if d.reason == "key" and not d.own]
    if plain:
        output.say(f"follows from it, by inputs alone: {', '.join(plain)}")
    for difference in rest:
        if difference.reason != "key":
            output.say(f"also: {difference.pair.step}: {_why(difference)}")
        elif difference.own:
            output.say(f"also differs by itself: {difference.pair.step}")
            _lines([explained.text(change, difference.pair) for change in difference.own])
    if rest:
        _say_figures(rest[-1].pair)


def _why(difference: Difference) -> str:
    return "same key, other bytes" if difference.reason == "bytes" else difference.reason


def _say_figures(pair: Pair) -> None:
    if pair.a is None or pair.b is None:
        return
    for name in FIGURES:
        if name in pair.a.metrics and name in pair.b.metrics:
            output.say(f"{pair.step}, {name}: {pair.a.metrics[name]:.4g} -> {pair.b.metrics[name]:.4g}")


def _lines(lines: Sequence[str]) -> None:
    for line in lines[:SHOWN]:
        output.say(f"  {line}")
    if len(lines) > SHOWN:
        output.say(f"  and {len(lines) - SHOWN} more (--json shows all)")


def _facts(a: str, b: str, found: Sequence[Pair], differing: Sequence[Difference]) -> dict[str, Any]:
    facts: dict[str, Any] = {"a": a, "b": b, "steps": [pair.step for pair in found], "same": not differing}
    facts["first"] = differing[0].facts() if differing else None
    if differing and differing[0].reason == "bytes":
        facts["beside_the_key"] = [vars(change) for change in explained.outside(differing[0].pair)]
    facts["follows"] = [difference.facts() for difference in differing[1:]]
    return facts


def _documents(a: str, b: str, both: bool, workspace: Path, json: bool) -> None:
    """Two JSON documents of bundles: with what was measured, not the figures themselves.

    Raises:
        UsageError: One of the two is no such document.
    """
    if not both:
        raise UsageError(f"explain {a} {b}", "a JSON document and something else", "two of the same kind")
    one, other = (_document(name) for name in (a, b))
    found = [Change(n, one.get(n), other.get(n)) for n in sorted({*one, *other}) if one.get(n) != other.get(n)]
    if json:
        output.print_json({"a": a, "b": b, "same": not found, "changes": [vars(change) for change in found]})
        return
    output.say(f"{len(found)} differences" if found else "the same, but for the figures")
    _lines([f"{change.name}: {change.before} -> {change.after}" for change in found])
    output.next_command(f"edgekd artifacts ls{current.option(workspace)}")


def _document(name: str) -> Mapping[str, Any]:
    if not Path(name).is_file():
        raise UsageError(name, "no such file", "result.json or bundle.json")
    value = records.read_json(Path(name), name)
    if not isinstance(value, dict):
        raise UsageError(name, "is no JSON object", "result.json or bundle.json")
    return {key: item for key, item in flat(value) if key not in MEASURED and key.partition(".")[0] not in MEASURED}
