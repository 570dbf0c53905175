"""`edgekd lineage ID`: from the data set to the board figure, and with `--verify` every hash of it anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.analysis.lineage import Chain, chain, verify
from edgekd.artifact import Artifact
from edgekd.commands import current, origins, output
from edgekd.commands.chain import data_roots, weight_caches
from edgekd.commands.origins import Origin, Places
from edgekd.errors import IntegrityError
from edgekd.integrity import Fault
from edgekd.store import Store

SHOWN = 12  # letters of a hash in the table
DAMAGED = "edgekd artifacts gc --yes{} removes damaged artifacts; the same run then makes them anew"
GONE = "edgekd run{}: what is gone is made anew"


def lineage(reference: str, check: bool, workspace: Path, roots: list[Path] | None, json: bool) -> None:
    """Print the chain of an artifact; with `check` recompute every hash.

    Args:
        reference: Artifact, tag, or step of the current run.
        check: Recompute and compare.
        workspace: Where.
        roots: Where the data set's own files and checkpoints are looked for.
        json: One document instead of a table.

    Raises:
        IntegrityError: An input is gone, or with `check` something is not what it was; each is named with file, found, expected.
        UsageError: No such artifact.
    """
    found = chain(Store(workspace), current.resolve(workspace, reference))
    facts = facts_of(found)
    outside: list[Origin] = []
    faults: list[Fault] = found.faults
    if check:
        faults, outside = check_all(found, workspace, roots)
        facts["verified"] = _counts(found)
        facts["outside"] = origins.looked_at(outside)
    facts["faults"] = [vars(fault) for fault in faults]
    if json and faults:
        output.fail(error_of(faults, workspace), facts)
    if json:
        output.print_json(facts)
        return
    _print(facts["chain"])
    if faults:
        raise error_of(faults, workspace)
    if check:
        _say(outside, found)
    following = "edgekd reproduce" if check else "edgekd lineage --verify"
    output.next_command(f"{following} {facts['artifact']}{current.option(workspace)}")


def check_all(found: Chain, workspace: Path, roots: list[Path] | None) -> tuple[list[Fault], list[Origin]]:
    """Everything that is wrong with a chain, and the files from outside that it began with."""
    artifacts = list(found.artifacts.values())
    places = Places(data_roots(roots), origins.recipe_dir(workspace, artifacts), weight_caches())
    outside = list(origins.look(artifacts, places))
    changed = [fault for origin in outside if (fault := origin.fault) is not None]
    return [*changed, *verify(found)], outside


def error_of(faults: Sequence[Fault], workspace: Path) -> IntegrityError:
    """All faults as one error: the first says what was expected."""
    first, *others = faults
    where, expected = first.artifact, first.expected
    lines = [f"{first.file} {first.found}".strip(), *(f"{f.text}\n    expected: {f.expected}" for f in others)]
    hint = GONE if not any(fault.file for fault in faults) else DAMAGED
    return IntegrityError(where, "\n".join(lines), expected, hint.format(current.option(workspace)))


def facts_of(found: Chain) -> dict[str, Any]:
    """The chain as plain data, upstream first."""
    links = [_link(artifact) for artifact in found.artifacts.values()]
    return {"artifact": links[-1]["id"], "chain": links}


def _link(artifact: Artifact) -> dict[str, Any]:
    manifest: Mapping[str, Any] = artifact.manifest
    host = manifest.get("host", {})
    return {
        "step": artifact.step,
        "id": artifact.id,
        "key": artifact.key,
        "digest": artifact.digest,
        "inputs": dict(artifact.inputs),
        "files": {name: str(entry["sha256"]) for name, entry in manifest["files"].items()},
        "sealed_at": str(manifest.get("sealed_at", "")),
        "edgekd": manifest.get("versions", {}).get("edgekd", ""),
        "commit": manifest.get("source", {}).get("commit", ""),
        "host": " ".join(str(host[name]) for name in ("system", "machine", "processor") if host.get(name)),
        "board": _board(manifest),
    }


def _board(manifest: Mapping[str, Any]) -> str:
    """What a figure was measured on, where that is another machine than the one that asked for it."""
    there: Mapping[str, Any] = manifest.get("environment", {})
    if manifest.get("params", {}).get("transport", "local") == "local":
        return ""
    return f"{there.get('board') or there.get('chip', '')}{', emulated' if there.get('emulated') else ''}"


def _counts(found: Chain) -> dict[str, int]:
    artifacts = found.artifacts.values()
    return {
        "artifacts": len(artifacts),
        "files": sum(len(a.manifest["files"]) + 1 for a in artifacts),  # and the manifest
        "bytes": sum(a.bytes for a in artifacts),
    }


def _print(links: Sequence[Mapping[str, Any]]) -> None:
    """One line a step, set in below what it was made from."""
    depth: dict[str, int] = {}
    rows = []
    for link in links:
        depth[link["id"]] = 1 + max((depth.get(name, 0) for name in link["inputs"].values()), default=-1)
        indent = "  " * (depth[link["id"]] - 1) + "└ " if depth[link["id"]] else ""
        made = f"{link['edgekd']} {link['commit'][:8]}".strip()
        hashes = (link["key"][:SHOWN], link["digest"][:SHOWN])
        name = link["id"].rpartition("/")[2]
        host = f"{link['board']}; from {link['host']}" if link["board"] else link["host"]
        rows.append((indent + link["step"], name, *hashes, link["sealed_at"][:16], made, host))
    output.print_table(("step", "artifact", "key", "digest", "made (UTC)", "edgekd", "host"), rows)


def _say(outside: Sequence[Origin], found: Chain) -> None:
    for origin in outside:
        state = "as it was" if origin.found else f"not compared: {origin.why}"
        output.say(f"{origin.artifact}: {origin.what}: {state}")
    counts = _counts(found)
    output.say(
        f"{counts['artifacts']} artifacts, {counts['files']} files, {output.size(counts['bytes'])}: "
        "every byte, key, digest and link recomputed, and as it was sealed"
    )
