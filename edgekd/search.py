"""What a tuning varies: recipe keys and the range of each, as typed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from edgekd.errors import UsageError

Kind = Literal["float", "log", "int", "choice"]
KINDS: tuple[Kind, ...] = ("float", "log", "int", "choice")
DIGITS = 4  # significant, of a number that is tried: more say nothing, and the line to type stays short
EXAMPLE = "--param distill.beta=log:5..500, distill.k=int:2..9 or distill.select=choice:topk,all"


class Trial(Protocol):
    """The part of Optuna's trial that is used."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number of the range."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number of the range."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """One of them."""


@dataclass(frozen=True)
class Parameter:
    """A recipe key and what it may be.

    Attributes:
        key: `distill.beta`.
        kind: `float` and `log`: a number, evenly or evenly in its logarithm; `int`; `choice`.
        low: Least number; unused by `choice`.
        high: Greatest number.
        choices: YAML texts.
    """

    key: str
    kind: Kind
    low: float = 0.0
    high: float = 0.0
    choices: tuple[str, ...] = ()

    def suggested(self, trial: Trial) -> str:
        """The next value to try, as the text of an override."""
        if self.kind == "choice":
            return f"{self.key}={trial.suggest_categorical(self.key, self.choices)}"
        if self.kind == "int":
            return f"{self.key}={trial.suggest_int(self.key, int(self.low), int(self.high))}"
        found = trial.suggest_float(self.key, self.low, self.high, log=self.kind == "log")
        return f"{self.key}={min(max(float(f'{found:.{DIGITS}g}'), self.low), self.high)!r}"

    @property
    def first(self) -> str:
        """An override with one allowed value, to see whether the recipe has such a key."""
        value = self.choices[0] if self.kind == "choice" else int(self.low) if self.kind == "int" else self.low
        return f"{self.key}={value}"


def read(texts: Sequence[str]) -> tuple[Parameter, ...]:
    """`--param` options.

    Raises:
        UsageError: Not of the form that the help names, an empty range, or one key twice.
    """
    found = tuple(_one(text) for text in texts)
    keys = [parameter.key for parameter in found]
    for key in keys:
        if keys.count(key) > 1:
            raise UsageError("--param", f"{key} stands twice", "each key once")
    return found


def _one(text: str) -> Parameter:
    where = f"--param {text}"
    key, _, rule = text.partition("=")
    word, _, values = rule.partition(":")
    kind = next((kind for kind in KINDS if kind == word.strip()), None)
    if kind is None or not all(part.isidentifier() for part in key.strip().split(".")):
        raise UsageError(where, "is not of the form a.b=kind:range", "kinds: " + ", ".join(KINDS), EXAMPLE)
    if kind == "choice":
        choices = tuple(dict.fromkeys(part.strip() for part in values.split(",") if part.strip()))
        if len(choices) < 2:
            raise UsageError(where, f"{len(choices)} choices", "two or more, separated by commas", EXAMPLE)
        return Parameter(key.strip(), kind, choices=choices)
    low, high = _range(values, where, whole=kind == "int")
    if kind == "log" and low <= 0:
        raise UsageError(where, f"a logarithm from {low:g}", "a range above 0", EXAMPLE)
    return Parameter(key.strip(), kind, low, high)


def _range(text: str, where: str, *, whole: bool) -> tuple[float, float]:
    first, dots, last = text.partition("..")
    try:
        low, high = (float(int(part)) if whole else float(part) for part in (first, last))
    except ValueError:
        low = high = math.nan
    if not dots or not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(
            where, f"{text!r} is no range", f"low..high, {'whole numbers' if whole else 'numbers'}", EXAMPLE
        )
    return low, high
