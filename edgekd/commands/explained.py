"""Two chains side by side: the first step that differs, in what, and what only follows from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgekd.artifact import Artifact, material
from edgekd.manifest import Change, changes, flat

Reason = Literal["key", "bytes", "only in A", "only in B"]
OUTSIDE = ("versions", "threads", "source", "host")  # of a manifest: what no key holds and may still change bytes
OF_RECIPE = {"roles.val": "data.val", "roles.train": "data.train", "roles.seed": "seed"}
TRAINING = {"device": "device kind", "precision": "precision", "processes": "number of processes"}


@dataclass(frozen=True)
class Pair:
    """One step in both chains; `a` or `b` is None where a chain lacks it."""

    step: str
    a: Artifact | None
    b: Artifact | None


@dataclass(frozen=True)
class Difference:
    """One step that differs.

    Attributes:
        pair: The step.
        reason: `key`: made from something else; `bytes`: the same key, and other bytes came out; or it is in one chain only.
        own: What differs in its key by itself.
        inputs: What differs in its key because an earlier step does.
    """

    pair: Pair
    reason: Reason
    own: tuple[Change, ...] = ()
    inputs: tuple[Change, ...] = ()

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        ids = {name: artifact.id if artifact else None for name, artifact in (("a", self.pair.a), ("b", self.pair.b))}
        said = [{"kind": kind(change), **asdict(change)} for change in (*self.own, *self.inputs)]
        return {"step": self.pair.step, **ids, "reason": self.reason, "changes": said}


def pairs(a: Mapping[str, Artifact], b: Mapping[str, Artifact]) -> list[Pair]:
    """The steps of both chains, upstream first; two of one kind under different names are one step (`export/x`, `export/y`)."""
    other = _renamed(a, b)
    names = list(a)
    for place, name in enumerate(b):
        if name not in a and name not in other.values():
            before = next((x for x in reversed(list(b)[:place]) if x in names), None)
            names.insert(names.index(before) + 1 if before else 0, name)
    return [Pair(name, a.get(name), b.get(other.get(name, name))) for name in names]


def differences(found: Sequence[Pair]) -> list[Difference]:
    """The steps that differ, upstream first."""
    return [difference for pair in found if (difference := _difference(pair)) is not None]


def outside(pair: Pair) -> list[Change]:
    """What differs beside the key: versions of packages, threads, source, host."""
    assert pair.a is not None and pair.b is not None
    old, new = (dict(flat({name: x.manifest.get(name) for name in OUTSIDE})) for x in (pair.a, pair.b))
    return [
        Change(name, old.get(name), new.get(name)) for name in sorted({*old, *new}) if old.get(name) != new.get(name)
    ]


def kind(change: Change) -> str:
    """What a change is one of, in words."""
    first = change.name.partition(".")[0]
    names = {"params": "parameter", "inputs": "input", "version": "stage version", "environment": "device"}
    if first == "plugin":
        return "plugin version" if change.name.endswith("version") else "plugin"
    return names.get(first, first)


def text(change: Change, pair: Pair) -> str:
    """A change in words, with the recipe's own key where that is another."""
    artifact = pair.b or pair.a
    assert artifact is not None
    name, values = change.name.removeprefix("params."), f"{change.before} -> {change.after}"
    if change.name == "version":
        return f"version of stage {artifact.manifest.get('stage')}: {values}"
    if change.name.startswith("plugin."):
        plugin = artifact.manifest["plugin"]
        return f"plugin {plugin['group']}/{plugin['name']}, {name.removeprefix('plugin.')}: {values}"
    if change.name.startswith("environment."):
        own = name.removeprefix("environment.")
        return f"{TRAINING.get(own, f'device fingerprint, {own}')}: {values}"
    if change.name.startswith("inputs."):
        return f"input {name.removeprefix('inputs.')}: {values}"
    recipe = f" (the recipe's {OF_RECIPE[name]})" if name in OF_RECIPE else ""
    return f"{name}: {values}{recipe}"


def _difference(pair: Pair) -> Difference | None:
    if pair.a is None or pair.b is None:
        return Difference(pair, "only in A" if pair.b is None else "only in B")
    if pair.a.key == pair.b.key:
        return None if pair.a.digest == pair.b.digest else Difference(pair, "bytes")
    found = changes(material(pair.a.manifest), material(pair.b.manifest))
    if pair.a.manifest.get("stage") != pair.b.manifest.get("stage"):
        stages = (str(artifact.manifest.get("stage")) for artifact in (pair.a, pair.b))
        found.insert(0, Change("stage", *stages))
    own = tuple(change for change in found if not change.name.startswith("inputs."))
    return Difference(pair, "key", own, tuple(change for change in found if change.name.startswith("inputs.")))


def _renamed(a: Mapping[str, Artifact], b: Mapping[str, Artifact]) -> dict[str, str]:
    """{step of A: step of B} of the same kind, where each chain has just one that the other lacks."""
    return dict(_alike([name for name in a if name not in b], [name for name in b if name not in a]))


def _alike(only_a: Sequence[str], only_b: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in only_a:
        mine, theirs = ([x for x in only if _kind(x) == _kind(name)] for only in (only_a, only_b))
        if len(mine) == len(theirs) == 1:
            yield name, theirs[0]


def _kind(step: str) -> str:
    return step.partition("/")[0]
