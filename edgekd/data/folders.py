"""Image files in class folders: `train/<class>/*` and `test|val/<class>/*`, or bare `<class>/*`, found and decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekd.console import Console
from edgekd.data.base import Allocate, Decoded, Labels, Located, locate_files, settle_splits
from edgekd.data.classnames import check_class_names
from edgekd.data.images import Encoded, Stream, decode_streams
from edgekd.data.stratify import Rows, fixed_split, twins
from edgekd.errors import IntegrityError, RecipeError

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
LEFT_BY_DESKTOPS = ("thumbs.db", "desktop.ini")  # beside names that begin with a dot
SPLIT_FOLDERS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
TEST_FRACTION = 0.2
INIT = "edgekd init --data FOLDER"


def locate_folders(name: str, folder: Path, where: str, skip: Sequence[str] = ()) -> Located:
    """Find and hash the image files of a folder.

    Args:
        name: What to call the data set.
        folder: Holds split folders or class folders.
        where: The recipe key to name in errors about the set as a whole.
        skip: Files to leave out: names below the folder, or `*.ending` for all that end so.

    Raises:
        RecipeError: Another folder beside split folders, a file that is no image, a class without any; a name in `skip`
            that no file has.
        IntegrityError: A file cannot be read.
    """
    layout, places = listing(folder, where)
    left_out = _left_out(folder, places, skip)
    located = locate_files(name, folder, _image_files(places, left_out), layout)
    return replace(located, skipped=len(left_out))


def listing(folder: Path, where: str) -> tuple[str, dict[Path, list[Path]]]:
    """The layout, and the files of each class folder but for what desktops leave there.

    Raises:
        RecipeError: Another folder beside split folders.
    """
    class_folders, layout = subfolders(folder), "class folders"
    if {place.name for place in class_folders} & set(SPLIT_FOLDERS):
        for place in class_folders:
            if place.name not in SPLIT_FOLDERS:
                raise RecipeError(where, f"{place} beside split folders", ", ".join(SPLIT_FOLDERS))
        class_folders, layout = [place for split in class_folders for place in subfolders(split)], "split folders"
    return layout, {place: _files(place, folder) for place in class_folders}


def decode_folders(
    located: Located, size: int | None, resize: str | None, console: Console, allocate: Allocate, where: str
) -> Decoded:
    """Decode what `locate_folders` found; see `DataSource.decode`."""
    names = [file.relative_to(located.folder).parts for file in located.files]
    classes, labels, rows, rule = arrange(names, located.layout, np.array(located.hashes), where)
    streams = {name: Stream(len(part), partial(_encoded, located.files, part)) for name, part in rows.items()}
    try:
        images, photos = decode_streams(streams, size, resize, console, allocate)
    except IntegrityError as error:
        error.hint = error.hint or f"mend or remove it, or leave it out: {INIT} writes the list `skip`"
        raise
    splits = {name: (images[name], labels[rows[name]]) for name in rows}
    return Decoded(classes, splits, rule, located.layout, photos)


def arrange(
    names: Sequence[tuple[str, ...]], layout: str, hashes: npt.NDArray[np.generic], where: str
) -> tuple[tuple[str, ...], Labels, dict[str, Rows], str]:
    """(classes, label of each file, rows of each split, the rule in words), from the files' names and contents.

    Args:
        names: The parts of each file's name below the folder.
        layout: As `listing` says.
        hashes: What tells the contents apart, a file; decides which of bare classes go to test.
        where: The recipe key to name in errors.

    Raises:
        RecipeError: Fewer than two classes, no training or no test split, a class that is not in every split; of bare classes,
            too few images, or a class of which every image is there more than once.
    """
    if layout == "class folders":
        classes, labels = _label([name[0] for name in names], where)
        train, test, rule = fixed_split(labels, hashes, TEST_FRACTION)
        _check_test(classes, labels, test, twins(hashes)[0], where)
        return classes, labels, {"train": train, "test": test}, rule
    classes, labels = _label([name[1] for name in names], where)
    splits = np.array([SPLIT_FOLDERS[name[0]] for name in names])
    rows, rule = settle_splits({str(name): np.flatnonzero(splits == name) for name in np.unique(splits)}, where)
    _check_classes(classes, labels, rows, where)
    return classes, labels, rows, rule


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, hidden ones left out."""
    return sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))


def _files(place: Path, folder: Path) -> list[Path]:
    return [path for path in sorted(place.rglob("*")) if path.is_file() and not _is_litter(path.relative_to(folder))]


def _left_out(folder: Path, places: Mapping[Path, Sequence[Path]], skip: Sequence[str]) -> set[Path]:
    names = {path.relative_to(folder).as_posix(): path for files in places.values() for path in files} if skip else {}
    found: set[Path] = set()
    for entry in skip:
        matching = [names[entry]] if entry in names else []
        if entry.startswith("*.") and not matching:
            matching = [path for name, path in names.items() if name.lower().endswith(entry[1:].lower())]
        if not matching:
            raise RecipeError(
                "data.skip",
                f"{entry!r} is no file of {folder}",
                "names as train/cat/1.png, or *.ending",
                f"take it out of the list, or write a new one: {INIT}",
            )
        found.update(matching)
    return found


def _image_files(places: Mapping[Path, Sequence[Path]], left_out: set[Path]) -> list[Path]:
    """The files of the class folders but those left out; anything else that is no image is an error, not a gap."""
    found: list[Path] = []
    for place, inside in places.items():
        files = [path for path in inside if path not in left_out]
        for path in files:
            if not is_image(path):
                hint = f"convert it, move it, or leave it out: {INIT} writes the list `skip`"
                raise RecipeError(str(path), "not a kind of image that is read here", " ".join(ENDINGS), hint)
        if not files:
            raise RecipeError(str(place), "a class without images", "at least one image")
        found += files
    return found


def is_image(path: Path) -> bool:
    """Whether a file's ending says that it is an image of a kind that is read here."""
    return path.suffix.lower() in ENDINGS


def _is_litter(path: Path) -> bool:
    return path.name.lower() in LEFT_BY_DESKTOPS or any(part.startswith(".") for part in path.parts)


def _label(names: Sequence[str], where: str) -> tuple[tuple[str, ...], Labels]:
    classes, labels = np.unique(np.array(names), return_inverse=True)
    if len(classes) < 2:
        raise RecipeError(where, f"classes found: {', '.join(classes)}", "two or more class folders")
    check_class_names(classes.tolist(), where)
    return tuple(str(name) for name in classes), labels.astype(np.int64)


def _check_test(classes: tuple[str, ...], labels: Labels, test: Rows, repeated: Rows, where: str) -> None:
    """Repeated images stay in train: a class of nothing else would be missing in test, and in every accuracy, without a word."""
    sizes = np.bincount(labels)
    copied = np.flatnonzero(np.bincount(labels[repeated], minlength=len(sizes)) == sizes)
    if len(copied):
        found = f"every image of class {classes[int(copied[0])]!r} is there more than once: none can be held out for testing"
        raise RecipeError(
            where, found, "images of its own", "remove the copies, or sort all into folders train and test"
        )
    if not len(test):
        found = f"{len(labels)} images in {len(classes)} classes: too few to hold out a fifth for testing"
        raise RecipeError(where, found, "more images", "sort them into folders train and test yourself")


def _check_classes(classes: tuple[str, ...], labels: Labels, rows: dict[str, Rows], where: str) -> None:
    for split, chosen in rows.items():
        missing = set(range(len(classes))) - set(labels[chosen].tolist())
        if missing:
            name = classes[min(missing)]
            raise RecipeError(where, f"{split} has no folder {name!r}", "the same class folders in every split")


def _encoded(files: Sequence[Path], rows: Rows) -> Iterator[Encoded]:
    for row in rows:
        file = files[int(row)]
        try:
            yield str(file), file.read_bytes()
        except OSError as error:
            raise IntegrityError(str(file), f"cannot be read ({error.strerror})") from error
