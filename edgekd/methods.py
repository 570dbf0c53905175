"""What a recipe's distillation method is, without importing it: a method that is made of others is what they are together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd import registry

GROUP = "distillers"
WRAPS = "of"  # where a method of another package, which is not installed, will have listed its members
BASELINE = {"ce_weight": 1.0, "kd_weight": 0.0}  # of a method that says nothing: labels alone

Stored = tuple[str | None, tuple[str, ...]]  # kind of taps, their reductions


def parts(use: str, args: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(method, its arguments): itself, or those that it is made of."""
    return registry.members(GROUP, use, args) or [(use, dict(args))]


def needs_teacher(use: str, args: Mapping[str, Any]) -> bool:
    """Whether it learns from a teacher."""
    return any(_said(name, "needs_teacher", True) for name, _ in parts(use, args))


def reconstructions(use: str, args: Mapping[str, Any]) -> list[str]:
    """The methods in it that edgekd reconstructed. It comes from a record, which may name methods that are not there any more."""
    known = registry.plugins(GROUP)
    wraps = known[use].attributes.get("wraps", WRAPS) if use in known else WRAPS
    listed = [item.get("use") for item in args.get(wraps) or [] if isinstance(item, Mapping)]
    return [name for name in (use, *listed) if name in known and known[name].attributes.get("reconstruction")]


def stored(use: str, args: Mapping[str, Any]) -> Stored | None:
    """What of a teacher's answers must be stored for it; None: it has no teacher, or cannot learn from stored answers.

    Methods that read taps of two kinds cannot share one store.
    """
    if not needs_teacher(use, args):
        return None
    kinds: set[str] = set()
    reductions: dict[str, None] = {}
    for name, own in parts(use, args):
        wanted = _said(name, "cached", None)
        if wanted is None and _said(name, "needs_teacher", True):
            return None
        if wanted:
            kinds.add(str(registry.filled(GROUP, name, own)["taps"]))
            reductions |= dict.fromkeys(wanted)
    if len(kinds) > 1:
        return None
    return next(iter(kinds), None), tuple(reductions)


def baseline(use: str, args: Mapping[str, Any]) -> dict[str, float] | None:
    """Arguments of `kd` that are what remains when the method's own terms are off; None: nothing that could be compared."""
    name, own = parts(use, args)[0]  # the first alone brings `ce` and `kd`
    said = _said(name, "baseline", BASELINE)
    if said is None:
        return None
    given = registry.filled(GROUP, name, own)
    return {key: float(given[value] if isinstance(value, str) else value) for key, value in said.items()}


def _said(name: str, attribute: str, default: Any) -> Any:
    return registry.find(GROUP, name).attributes.get(attribute, default)
