"""`edgekd init --data FOLDER`: look at a user's own images and write a recipe for them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd import recipe as recipes
from edgekd import yamlsource
from edgekd.commands import first_recipe, output
from edgekd.commands.image_facts import MOST_COPIES, facts_of, print_facts
from edgekd.commands.own_images import Images, read_images
from edgekd.console import Console
from edgekd.data.survey import Equal, Looked, equal, look
from edgekd.durable import write_whole
from edgekd.errors import EdgekdError, UsageError
from edgekd.pipeline import steps_of


def init(folder: Path, to: Path | None, name: str | None, size: int | None, force: bool, json: bool) -> None:
    """Look at a folder and write a recipe beside what is typed next.

    Raises:
        UsageError: The recipe exists already, or the folder holds nothing that can be read.
        RecipeError: Nothing can be trained on these images, whatever is left out.
    """
    name = name or _name(folder)
    to = to or Path(f"{name}.yaml")
    if to.exists() and not force:
        raise UsageError(str(to), "exists already", "a new file", "--force, or another --output")
    if not str(to).isprintable():
        raise UsageError("--output", ascii(str(to)), "a name of printable characters")
    images = read_images(folder)
    seen = look(images.items, images.total, Console())
    same = equal(seen)
    facts = facts_of(images, seen, same)
    if not json:
        print_facts(facts)
    try:
        text, skipped = _recipe(images, seen, same, facts, to, name, size)
    except EdgekdError as error:
        if json:
            output.fail(error, facts)
        raise
    write_whole(to, text.encode())
    following = f"edgekd run --recipe {shlex.quote(str(to))}"
    if json:
        output.print_json({**facts, "left_out": skipped, "recipe": str(to), "next": following})
        return
    output.say(f"recipe: {to} ({skipped} files left out by name)" if skipped else f"recipe: {to}")
    output.next_command(following)


def _name(folder: Path) -> str:
    """A recipe name from the folder's."""
    word = re.sub(r"[^A-Za-z0-9._-]+", "_", folder.resolve().name).strip("._-")[:80]
    return word or "own_images"


def _recipe(
    images: Images,
    seen: Sequence[Looked],
    same: Equal,
    facts: Mapping[str, Any],
    to: Path,
    name: str,
    size: int | None,
) -> tuple[str, int]:
    """(the recipe's text, how many files it leaves out), checked as `run` will check it."""
    skip = _skip(images, seen, same)
    gone = {name for names in skip.values() for name in names}
    kept = [image for image in seen if not image.fault and image.name not in gone]
    splits = images.splits(kept)
    path, portable = _path(images.folder, to)
    wanted = first_recipe.Wanted(
        name=name,
        file=str(to),
        use=images.use,
        path=path,
        portable=portable,
        images=len(kept),
        classes=len({image.label for image in kept}),
        train=splits["train"],
        own_val="val" in splits,
        size=size or first_recipe.choose_size([(image.form.width, image.form.height) for image in kept if image.form]),
        weighted=facts["imbalance"]["ratio"] if facts["imbalance"]["weights_suggested"] else None,
        skip=skip,
    )
    text = first_recipe.write(wanted)
    if len(text.encode()) > yamlsource.MAX_BYTES:
        raise UsageError(
            str(images.folder),
            f"{len(gone)} files to leave out: more than a recipe can hold",
            "a cleaner folder",
            "--json lists them",
        )
    steps_of(recipes.build(yamlsource.parse(text, str(to))))
    return text, len(images.strangers) + len([image for image in seen if image.name in gone])


def _skip(images: Images, seen: Sequence[Looked], same: Equal) -> dict[str, Sequence[str]]:
    """Reason -> files that the recipe leaves out. Parquet rows have no names: they can only be reported."""
    if images.use != "imagefolder":
        return {}
    endings = sorted({f"*{Path(name).suffix.lower()}" if Path(name).suffix else name for name in images.strangers})
    return {
        "not images": endings,
        "cannot be decoded": sorted(image.name for image in seen if image.fault),
        "one picture in two classes: at least one label is wrong, and only you know which": sorted(
            name for group in same.contradicting for name in group
        ),
        "copies of a picture that stays": same.copies if len(same.copies) <= MOST_COPIES else (),
    }


def _path(folder: Path, to: Path) -> tuple[str, bool]:
    """The folder as the recipe names it: below the recipe's own folder relative to it, so that both can move together."""
    folder, beside = folder.absolute(), to.absolute().parent
    inside = folder.is_relative_to(beside) and folder != beside
    return (folder.relative_to(beside).as_posix(), True) if inside else (str(folder), False)
