"""What an ONNX file of ours says of itself (classes, normalisation) against the data and the recipe."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from edgekd.data import normalize
from edgekd.errors import IntegrityError, RecipeError
from edgekd.onnximport.read import WHERE

T = TypeVar("T", str, float)


def require_classes(own: Mapping[str, str], classes: Sequence[str], name: str) -> None:
    """The file's classes must be the data's, in the same order.

    Raises:
        RecipeError: They are not; names the first that differs. A file that says nothing is believed.
        IntegrityError: What it says is no list of names.
    """
    theirs = None if "classes" not in own else _list(own, "classes", str, name)
    if theirs is None or theirs == list(classes):
        return
    at = next((i for i, pair in enumerate(zip(theirs, classes, strict=False)) if pair[0] != pair[1]), None)
    at = min(len(theirs), len(classes)) if at is None else at
    raise RecipeError(
        WHERE,
        f"{name} was made for {len(theirs)} classes: class {at} is {theirs[at : at + 1]}",
        f"{len(classes)} classes, class {at} {list(classes[at : at + 1])}, as the data have",
        "the data that it was made for",
    )


def require_normalize(named: str | None, own: Mapping[str, str], name: str) -> None:
    """Somebody must say how the input is normalised: a guess would cost accuracy without a word.

    Raises:
        RecipeError: Neither the recipe nor the file does.
    """
    if named is None and not _says(own):
        raise RecipeError(
            "student.normalize",
            f"is not given, and {name} does not say how its input is normalised",
            "dataset, " + ", ".join([*normalize.NAMED, *normalize.UNCHANGED]),
            "--set student.normalize=imagenet, or what it was trained with",
        )


def statistics(named: str | None, own: Mapping[str, str], data: Mapping[str, Any], name: str) -> normalize.Statistics:
    """(mean, std) a channel as the recipe or the file says.

    Args:
        named: The recipe's `student.normalize`.
        own: What the file says.
        data: `data.json`.
        name: Of the file.

    Raises:
        RecipeError: Neither says it, they say different things, or it is for other channels than the data have.
        IntegrityError: What the file says are no numbers to normalise with.
    """
    require_normalize(named, own, name)
    wanted = None if named is None else normalize.resolve(named, data, "student.normalize")
    if not _says(own):
        assert wanted is not None  # asked above
        return wanted
    found = tuple(_list(own, "mean", float, name)), tuple(_list(own, "std", float, name))
    if len(found[0]) != len(found[1]) or not all(0 < value < math.inf for value in found[1]):
        raise IntegrityError(WHERE, f"{name} says std {own['std'][:80]!r}", "a positive number a channel")
    if wanted is not None and wanted != found:
        said = f"{named}, and {name} says mean {list(found[0])}, std {list(found[1])}"
        raise RecipeError("student.normalize", said, "one of the two", "remove it")
    if len(found[0]) != data["channels"]:
        raise RecipeError(WHERE, f"{name} normalises {len(found[0])} channels", f"{data['channels']}, as the data have")
    return found


def _list(own: Mapping[str, str], key: str, kind: type[T], name: str) -> list[T]:
    """An entry of the file: a JSON list of texts, or of finite numbers."""
    try:
        values = json.loads(own[key], parse_int=kind)  # 1 may stand for 1.0
    except (ValueError, RecursionError):
        values = None
    good = isinstance(values, list) and all(isinstance(v, kind) for v in values)
    if not good or (kind is float and not all(map(math.isfinite, values))):
        expected = "a JSON list of " + ("numbers" if kind is float else "names")
        raise IntegrityError(WHERE, f"{name} says {key} {own[key][:80]!r}", expected)
    return list(values)


def _says(own: Mapping[str, str]) -> bool:
    return {"mean", "std"} <= set(own)
