"""SUM: several methods at once.

Needs: what its members need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from edgekd import methods, registry
from edgekd.distillers.base import Context, Distiller, Outputs, Progress, Wanted
from edgekd.errors import RecipeError

SHARED = ("ce", "kd")  # terms that the first member alone brings
NAME = "sum"


class Sum(Distiller):
    """Several methods at once: `ce` and `kd` of the first, of the others only their own terms, times their weight.

    Args:
        of: The members, each `{use: <method>, weight: <of all that it brings, >= 0, default 1>, <its arguments>}`.
    """

    wraps = "of"

    def __init__(self, *, of: list[dict[str, Any]]) -> None:
        super().__init__()
        self.names = _names([item["use"] for item in of])
        self.weights = [float(item.get("weight", 1)) for item in of]
        members = [
            registry.construct("distillers", use, own) for use, own in registry.members("distillers", NAME, {"of": of})
        ]
        self.members = nn.ModuleList(members)
        if len(members) < 2:
            raise RecipeError("distill.of", f"{len(members)} methods", "at least two", "distill.use=<the one>")
        for n, member in enumerate(members):
            if type(member).deploy is not Distiller.deploy:
                found = f"{of[n]['use']} ships layers of its own, which the others' losses do not see"
                raise RecipeError(f"distill.of.{n}", found, "methods that leave the student as it is")
        self.needs_teacher = any(member.needs_teacher for member in members)
        self.views = max(member.views for member in members)
        stored = methods.stored(NAME, {"of": of})
        self.cached = None if stored is None else stored[1]

    def wanted(self, student: Sequence[str], teacher: Sequence[str]) -> tuple[Wanted, Wanted]:
        """The taps of all members."""
        sides = [member.wanted(student, teacher if member.needs_teacher else ()) for member in self._each()]
        ours, theirs = zip(*sides, strict=True)
        return _once(ours), _once(theirs)

    def setup(self, context: Context) -> None:
        """Set up the members, in their order."""
        for member in self._each():
            member.setup(context)

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """The first member's terms and the others' own."""
        terms: dict[str, Tensor] = {}
        for name, weight, member in zip(self.names, self.weights, self._each(), strict=True):
            first = not terms
            seen = None if teacher is None or not member.needs_teacher else _views(teacher, self.views, member.views)
            given = member(_views(student, self.views, member.views), seen, target, progress)
            for term, value in given.items():
                if first or term not in SHARED:
                    terms[f"{name}_{term}" if term in terms else term] = weight * value
        return terms

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """Of all members, as `<member>_<name>`."""
        pairs = zip(self.names, self._each(), strict=True)
        return {f"{name}_{key}": own for name, member in pairs for key, own in member.optimizers().items()}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Those of all members."""
        return [group for member in self._each() for group in member.parameter_groups()]

    def after_backward(self, progress: Progress) -> None:
        """Each member's."""
        for member in self._each():
            member.after_backward(progress)

    def diagnostics(self) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """Each member's, under its own name where two have the same."""
        shown: dict[str, np.ndarray[Any, np.dtype[Any]]] = {}
        for name, member in zip(self.names, self._each(), strict=True):
            for key, value in member.diagnostics().items():
                shown[f"{name}_{key}" if key in shown else key] = value
        return shown

    def _each(self) -> list[Distiller]:
        return cast("list[Distiller]", list(self.members))


def _names(uses: Sequence[str]) -> list[str]:
    """Of the members; the second `at` is `at2`."""
    return [use if use not in uses[:n] else f"{use}{uses[:n].count(use) + 1}" for n, use in enumerate(uses)]


def _once(wanted: Sequence[Wanted]) -> Wanted:
    return list(dict.fromkeys(item for part in wanted for item in part))


def _views(outputs: Outputs, given: int, wanted: int) -> Outputs:
    """The rows of the first `wanted` of `given` views."""
    if wanted == given:
        return outputs
    n = len(outputs.logits) // given * wanted
    index = None if outputs.index is None else outputs.index[:n]
    return Outputs(outputs.logits[:n], {key: tap[:n] for key, tap in outputs.taps.items()}, index)
