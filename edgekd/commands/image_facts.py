"""What `edgekd init` found in a folder of images, as facts for a program and as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unicodedata import normalize

from edgekd.commands import output
from edgekd.commands.own_images import Images
from edgekd.data.survey import Equal, Looked
from edgekd.errors import RecipeError

WEIGHTS_FROM = 3.0  # largest class / smallest class from which class weights are suggested
MOST_COPIES = 500  # names: more copies stay where they are, where they weigh more and do no other harm
FEW = 25  # images of a class: of fewer, a fifth for testing is less than 5 pictures
SHOWN = 3  # file names in a line of the table
SHOWN_CLASSES = 30  # rows of the table of classes
MARKUP = "<>&[]{}\"'`\\"  # letters of a class name that other programs may take for more than a name

Row = tuple[str, str, str]


def facts_of(images: Images, seen: Sequence[Looked], same: Equal) -> dict[str, Any]:
    """Everything that was seen, as plain data.

    Raises:
        RecipeError: No image can be decoded.
    """
    sound = [image for image in seen if not image.fault]
    if not sound:
        raise RecipeError(str(images.folder), f"none of its {len(seen)} images can be decoded", "images")
    counts = _counts(sound)
    return {
        "folder": str(images.folder),
        "kind": images.use,
        "layout": images.layout,
        "images": len(sound),
        "classes": counts,
        "imbalance": _imbalance(counts),
        "sizes": _sizes(sound),
        "grey": sum(image.form is not None and image.form.channels == 1 for image in sound),
        "broken": {image.name: image.fault for image in seen if image.fault},
        "not_images": list(images.strangers),
        "outside": images.outside,
        "copies": list(same.copies),
        "contradicting": [list(group) for group in same.contradicting],
        "across_splits": [list(group) for group in same.shared],
        "few": {label: total for label, total in _totals(counts).items() if total < FEW},
        "class_names": list(_odd_names(list(counts))),
    }


def print_facts(facts: Mapping[str, Any]) -> None:
    """Two tables on stdout: images of each class and split, and what was found in them."""
    classes = facts["classes"]
    splits = [split for split in ("all", "train", "val", "test") if any(split in row for row in classes.values())]
    order = sorted(classes, key=lambda label: -sum(classes[label].values()))
    shown = list(classes)
    if len(order) > SHOWN_CLASSES:
        shown = order[: SHOWN_CLASSES // 2] + order[-SHOWN_CLASSES // 2 :]
    rows = [(_line(label), *(f"{classes[label].get(split, 0):,}" for split in splits)) for label in shown]
    output.print_table(
        ("class", *("images" if split == "all" else split for split in splits)), rows, [*splits, "images"]
    )
    if len(order) > len(shown):
        output.say(
            f"({len(order) - len(shown)} classes between the {SHOWN_CLASSES // 2} largest and smallest not shown)"
        )
    output.say("")
    output.print_table(("what", "found", "what becomes of it"), list(_rows(facts)))


def _counts(sound: Sequence[Looked]) -> dict[str, dict[str, int]]:
    """{class: {split: images}}, sorted by class."""
    counts: dict[str, dict[str, int]] = {}
    for image in sorted(sound, key=lambda image: image.label):
        by_split = counts.setdefault(image.label, {})
        by_split[image.split] = by_split.get(image.split, 0) + 1
    return counts


def _totals(counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    return {label: sum(by_split.values()) for label, by_split in counts.items()}


def _imbalance(counts: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    totals = _totals(counts)
    largest, smallest = max(totals, key=totals.__getitem__), min(totals, key=totals.__getitem__)
    ratio = totals[largest] / totals[smallest]
    return {"ratio": ratio, "largest": largest, "smallest": smallest, "weights_suggested": ratio >= WEIGHTS_FROM}


def _sizes(sound: Sequence[Looked]) -> dict[str, Any]:
    """(width, height) in pixels; the median is that of each side."""
    sides = [(image.form.width, image.form.height) for image in sound if image.form is not None]
    widths, heights = sorted(side[0] for side in sides), sorted(side[1] for side in sides)
    return {
        "smallest": min(sides, key=lambda side: side[0] * side[1]),
        "median": (widths[len(widths) // 2], heights[len(heights) // 2]),
        "largest": max(sides, key=lambda side: side[0] * side[1]),
        "different": len(set(sides)),
    }


def _odd_names(names: Sequence[str]) -> Iterator[str]:
    """What may surprise about class names; names that are no line of text are refused before."""
    folded: dict[str, str] = {}
    for name in names:
        if name != name.strip():
            yield f"{name!r} begins or ends with a space"
        if any(letter in MARKUP for letter in name):
            yield f"{name!r} has letters that other programs read as markup"
        other = folded.setdefault(normalize("NFKC", name).casefold(), name)
        if other != name:
            yield f"{other!r} and {name!r} differ in case or spelling alone: two classes"
    if len(names) > 1 and all(name.isdecimal() for name in names) and names != sorted(names, key=int):
        yield f"numbers are sorted as words: class 0 is {names[0]!r}, class 1 is {names[1]!r}, ..., the last is {names[-1]!r}"


def _rows(facts: Mapping[str, Any]) -> Iterator[Row]:
    """The table, what is not there left out."""
    left_out = (
        "left out by name: data.skip"
        if facts["kind"] == "imagefolder"
        else "run stops there: write the file without it"
    )
    sizes, images = facts["sizes"], facts["images"]
    yield "images", f"{images:,} in {len(facts['classes'])} classes ({facts['layout']})", ""
    yield (
        "size",
        f"{_pixels(sizes['smallest'])} to {_pixels(sizes['largest'])}, median {_pixels(sizes['median'])}; {sizes['different']:,} different",
        "" if sizes["different"] == 1 else "brought to one: data.size, data.resize",
    )
    if facts["grey"]:
        mixed = facts["grey"] < images
        yield "grey", f"{facts['grey']:,} of {images:,}", "all become RGB, grey repeated" if mixed else "one channel"
    uneven = facts["imbalance"]
    yield (
        "imbalance",
        f"{uneven['ratio']:.1f} ({_line(uneven['largest'])} / {_line(uneven['smallest'])})",
        f"{WEIGHTS_FROM:g} or more: think of fit.class_weights: balanced" if uneven["weights_suggested"] else "",
    )
    for what, names, becomes in _named(facts, left_out):
        if names:
            yield what, _some(names), becomes
    if facts["outside"]:
        yield "beside class folders", f"{facts['outside']:,} of other files", "not looked at"


def _named(facts: Mapping[str, Any], left_out: str) -> tuple[tuple[str, Sequence[str], str], ...]:
    """(what was found, where, what becomes of it), empty or not."""
    return (
        ("cannot be decoded", [f"{name} ({fault})" for name, fault in facts["broken"].items()], left_out),
        ("not images", facts["not_images"], left_out),
        ("copies in one class", facts["copies"], f"the first stays, the rest {_copies(facts, left_out)}"),
        ("same picture, other class", [" = ".join(group) for group in facts["contradicting"]], f"all {left_out}"),
        (
            "in two splits",
            [" = ".join(group) for group in facts["across_splits"]],
            "dropped from train: data.duplicates",
        ),
        (
            "few images",
            [f"{label}: {total}" for label, total in facts["few"].items()],
            f"fewer than {FEW}: its accuracy is chance",
        ),
        ("class names", facts["class_names"], "taken as they are"),
    )


def _copies(facts: Mapping[str, Any], left_out: str) -> str:
    return "too, being too many to name" if len(facts["copies"]) > MOST_COPIES else f"is {left_out}"


def _some(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"{len(names):,}: " + ", ".join(_line(name) for name in names[:SHOWN]) + more


def _line(name: str) -> str:
    """A name as one printable line."""
    return name if name.isprintable() else ascii(name)


def _pixels(side: Sequence[int]) -> str:
    return f"{side[0]}x{side[1]}"
