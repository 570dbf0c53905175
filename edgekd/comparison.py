"""What a comparison runs: methods as typed, the baselines that belong to them, seeds, and the recipe of each student."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekd import methods, recipe, registry, yamlsource
from edgekd.artifact import canonical
from edgekd.errors import RecipeError, UsageError
from edgekd.recipe import Fit, Recipe

LABELS_ALONE = {"ce_weight": 1, "kd_weight": 0}
CLOSING = {"[": "]", "{": "}", '"': '"', "'": "'"}
MOST_SEEDS = 1000
METHODS_EXAMPLE = "--methods ce,kd,rtk:beta=50:k=3"
SEEDS_EXAMPLE = "--seeds 5, --seeds 100-109 or --seeds 3,7"


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        label: As typed, and the name in every table.
        use: The distiller.
        args: Its arguments, checked, in the spelling that keys hash.
        asked: Typed by the user; False: it runs to be compared with.
        baseline: Label of its own loss with its distillation term off; None: nothing comparable is left of it.
    """

    label: str
    use: str
    args: Mapping[str, Any]
    asked: bool = True
    baseline: str | None = None

    @property
    def same(self) -> bytes:
        """Equal for methods that train alike."""
        return canonical({"use": self.use, "args": dict(self.args)})


@dataclass(frozen=True)
class Comparison:
    """Methods, baselines included, and seeds on one recipe.

    Attributes:
        recipe: With the budget and `fit.keep` of all students.
        methods: In the order of the table: `ce`, `kd`, then as typed with each own baseline before it.
        seeds: Of the students.
        plain: Label of the row of labels alone.
        usual: Label of the row of `kd`; None where there is no teacher.
    """

    recipe: Recipe
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    plain: str
    usual: str | None

    def row(self, label: str) -> Method:
        """A method by its label."""
        return next(method for method in self.methods if method.label == label)

    def references(self, method: Method) -> list[str]:
        """Labels of what a method is compared with: labels alone, `kd` and its own baseline, each once, itself never."""
        same = {method.same}
        found: list[str] = []
        for label in (self.plain, self.usual, method.baseline):
            if label is not None and self.row(label).same not in same:
                same.add(self.row(label).same)
                found.append(label)
        return found

    def in_turn(self) -> list[tuple[Method, int]]:
        """All students, seed by seed: a comparison that is stopped has seen every method equally often."""
        return [(method, seed) for seed in self.seeds for method in self.methods]

    @property
    def digest(self) -> str:
        """SHA-256 over everything that the students hang on, hex."""
        entries = [{"use": m.use, "args": dict(m.args), "label": m.label, "asked": m.asked} for m in self.methods]
        values = self.recipe.model_dump(mode="json")
        return hashlib.sha256(canonical({"recipe": values, "methods": entries, "seeds": self.seeds})).hexdigest()

    def student(self, method: Method, seed: int) -> Recipe:
        """The recipe of one student.

        Raises:
            RecipeError: The method cannot take it; the method is named.
        """
        values = self.recipe.model_dump(mode="json")
        values["student"]["seed"] = seed
        views = {name: value for name, value in (values["distill"] or {}).items() if name == "cached_views"}
        values["distill"] = {"use": method.use, **method.args, **views}
        return recipe.from_dict(values, f"--methods {method.label}")


def compared(given: Recipe, typed: str, seeds: str) -> Comparison:
    """The comparison that a user typed: `--methods` and `--seeds` on a recipe.

    Raises:
        RecipeError: An unknown method or argument, or one out of range; a student that is not fitted.
        UsageError: Not of the form that the help names.
    """
    if given.student.fit is None:
        raise RecipeError("student", "is imported: there is nothing to train", "a student with `fit`")
    named = read_methods(typed, given)
    firsts = [_labels_alone(given), *([_kd(given)] if given.teacher is not None else [])]
    known = {first.same: first for first in firsts} | {method.same: method for method in reversed(named)}
    plain, *usual = (known[first.same].label for first in firsts)
    rows: dict[str, Method] = {known[first.same].label: known[first.same] for first in firsts}
    for method in named:
        remains = _remains(method, given)
        if remains is not None:
            remains = known.setdefault(remains.same, remains)
            rows.setdefault(remains.label, remains)
        own = None if remains is None or remains.same == method.same else remains.label
        rows[method.label] = Method(method.label, method.use, method.args, True, own)
    return Comparison(given, tuple(rows.values()), read_seeds(seeds), plain, usual[0] if usual else None)


def read_methods(text: str, given: Recipe) -> list[Method]:
    """`ce,kd,rtk:beta=50:k=3` -> methods; commas and colons inside brackets or quotes belong to the value.

    What the recipe's own `distill` section says beside its `use` holds for the method of that name, under what is typed.

    Raises:
        RecipeError: An unknown method or argument, or one out of range.
        UsageError: Not of that form, or one name twice.
    """
    found: list[Method] = []
    for label in split(text, ","):
        where = f"--methods {label}"
        name, *pairs = split(label, ":")
        own = dict(given.distill.args) if given.distill is not None and given.distill.use == name else {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals or not key.isidentifier():
                raise UsageError(where, f"{pair!r} is not of the form argument=value", METHODS_EXAMPLE)
            own[key] = yamlsource.scalar(value, where)
        if label in [method.label for method in found]:
            raise UsageError(f"--methods {text}", f"{label} stands twice", "each method once")
        registry.find(methods.GROUP, name, where)
        method = Method(label, name, registry.check(methods.GROUP, name, own, f"{where}: {name}"))
        found.append(method if methods.needs_teacher(name, method.args) else _plain(method, given))
    if not found:
        raise UsageError("--methods", "names none", METHODS_EXAMPLE, "edgekd distillers")
    return found


def read_seeds(text: str) -> tuple[int, ...]:
    """`5` -> 0 to 4; `100-109` -> those ten; `3,7` -> those two.

    Raises:
        UsageError: Not of that form, a seed twice, or none.
    """
    seeds: list[int] = []
    try:
        if text.strip().isdecimal():
            seeds = list(range(min(int(text), MOST_SEEDS + 1)))
        else:
            for part in text.split(","):
                first, _, last = part.strip().partition("-")
                seeds += range(int(first), min(int(last or first), int(first) + MOST_SEEDS) + 1)
    except ValueError:
        seeds = []
    if not 0 < len(seeds) <= MOST_SEEDS or len(set(seeds)) < len(seeds) or not 0 <= min(seeds) <= max(seeds) < 2**31:
        raise UsageError(
            f"--seeds {text}",
            "is no list of seeds",
            f"a count, a range or seeds, 1 to {MOST_SEEDS} of them",
            SEEDS_EXAMPLE,
        )
    return tuple(seeds)


def shortened(given: Recipe, epochs: int | None, keep: str | None) -> Recipe:
    """A recipe whose student is fitted for so many epochs; epochs named in its schedule move with the length of the run.

    Args:
        given: The recipe.
        epochs: None: as it says.
        keep: `fit.keep`; None: as it says.
    """
    fit = given.student.fit
    if fit is None or (epochs is None and keep is None):
        return given
    values = given.model_dump(mode="json")
    values["student"]["fit"] |= {"keep": keep or fit.keep, **({} if epochs is None else _moved(fit, epochs))}
    return recipe.from_dict(values, f"recipe {given.name}")


def _moved(fit: Fit, epochs: int) -> dict[str, Any]:
    changes: dict[str, Any] = {"epochs": epochs, "warmup": round(fit.warmup * epochs / fit.epochs, 6)}
    if fit.milestones is not None:
        changes["milestones"] = sorted({max(1, round(m * epochs / fit.epochs)) for m in fit.milestones})
    return changes


def split(text: str, mark: str) -> list[str]:
    """Parts of a text at a mark outside brackets and quotes, stripped; empty ones are left out.

    Raises:
        UsageError: A bracket or quote is not closed.
    """
    parts, waiting = [""], ""
    for character in text:
        if waiting and character == waiting[-1]:
            waiting = waiting[:-1]
        elif character in CLOSING and not waiting.endswith(("'", '"')):
            waiting += CLOSING[character]
        elif character == mark and not waiting:
            parts.append("")
            continue
        parts[-1] += character
    if waiting:
        raise UsageError(f"{text!r}", f"misses {waiting[-1]!r}", METHODS_EXAMPLE)
    return [part.strip() for part in parts if part.strip()]


def _labels_alone(given: Recipe) -> Method:
    return _plain(Method("ce", "ce", {}, asked=False), given)


def _plain(method: Method, given: Recipe) -> Method:
    """Labels alone; from cached views as `kd` without its weight, so that every student sees the same views."""
    if given.distill is None or given.distill.cached_views is None or method.use != "ce":
        return method
    return Method(method.label, "kd", registry.check(methods.GROUP, "kd", LABELS_ALONE, "distill"), method.asked)


def _kd(given: Recipe) -> Method:
    method = read_methods("kd", given)[0]
    return Method(method.label, method.use, method.args, asked=False)


def _remains(method: Method, given: Recipe) -> Method | None:
    """What is left of a method with its own terms off, as a row of its own."""
    left = methods.baseline(method.use, method.args) if methods.needs_teacher(method.use, method.args) else None
    if left is None or not any(left.get(name) for name in LABELS_ALONE):
        return None
    if left.get("kd_weight") == 0:
        left = {"ce_weight": left["ce_weight"], "kd_weight": 0}
    if left == LABELS_ALONE:
        return _labels_alone(given)
    args = registry.check(methods.GROUP, "kd", left, f"--methods {method.label}")
    return Method(":".join(["kd", *(f"{key}={value}" for key, value in args.items())]), "kd", args, asked=False)
