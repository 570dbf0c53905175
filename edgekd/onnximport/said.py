"""What an ONNX file of ours says of itself (classes, normalisation) against the data and the recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.data import normalize
from edgekd.errors import RecipeError
from edgekd.onnximport.read import WHERE


def require_classes(own: Mapping[str, str], classes: Sequence[str], name: str) -> None:
    """The file's classes must be the data's, in the same order.

    Raises:
        RecipeError: They are not; names the first that differs. A file that says nothing is believed.
    """
    theirs = json.loads(own.get("classes", "null"))
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
    """
    require_normalize(named, own, name)
    wanted = None if named is None else normalize.resolve(named, data, "student.normalize")
    if not _says(own):
        assert wanted is not None  # asked above
        return wanted
    found = tuple(json.loads(own["mean"])), tuple(json.loads(own["std"]))
    if wanted is not None and wanted != found:
        said = f"{named}, and {name} says mean {list(found[0])}, std {list(found[1])}"
        raise RecipeError("student.normalize", said, "one of the two", "remove it")
    if len(found[0]) != data["channels"]:
        raise RecipeError(WHERE, f"{name} normalises {len(found[0])} channels", f"{data['channels']}, as the data have")
    return found


def _says(own: Mapping[str, str]) -> bool:
    return {"mean", "std"} <= set(own)
