"""The images of a folder that nobody prepared, listed for looking at: class folders, or image Parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from edgekd.data import folders, shards
from edgekd.data.survey import Item, Looked
from edgekd.errors import RecipeError, UsageError

LAYOUTS = "<class>/*, train|val|test/<class>/*, or *.parquet"


@dataclass(frozen=True)
class Images:
    """Images to look at.

    Attributes:
        folder: Where they are.
        use: The data set kind that reads them.
        layout: Which of its layouts they are in.
        items: Each of them, read lazily.
        total: How many.
        strangers: Files in class folders that are no images by their ending, by name.
        outside: How many files lie beside the class folders, where no data set kind looks.
    """

    folder: Path
    use: str
    layout: str
    items: Iterable[Item]
    total: int
    strangers: tuple[str, ...] = ()
    outside: int = 0

    def splits(self, kept: Sequence[Looked]) -> Mapping[str, int]:
        """How many of these images stage `data` will give each split.

        Raises:
            RecipeError: It will refuse them: fewer than two classes, a class of which nothing is left.
        """
        if self.use == "parquet":
            return Counter(image.split for image in kept)
        for split, label in sorted({(i.split, i.label) for i in self.items} - {(i.split, i.label) for i in kept}):
            what = f"no image of class {label!r} can be used" + ("" if split == "all" else f" in {split}")
            raise RecipeError(str(self.folder), what, "at least one", "mend some, or remove the folder")
        names = [Path(image.name).parts for image in kept]
        hashes = np.array([image.digest for image in kept])
        _, _, rows, _ = folders.arrange(names, self.layout, hashes, str(self.folder))
        return {split: len(chosen) for split, chosen in rows.items()}


def read_images(folder: Path) -> Images:
    """List what is in a folder; what cannot be trained on whatever the images show is refused here, before they are decoded.

    Raises:
        UsageError: It is no folder, or in none of the layouts.
        RecipeError: Folders, files or classes that do not go together.
        IntegrityError: A damaged Parquet file.
    """
    if not folder.is_dir():
        raise UsageError(f"--data {folder}", "no such folder", f"a folder with {LAYOUTS}")
    if shards.parquet_files(folder):
        return _parquet(folder)
    inside = folders.subfolders(folder)
    if len(inside) == 1 and inside[0].name not in folders.SPLIT_FOLDERS and folders.subfolders(inside[0]):
        raise UsageError(
            f"--data {folder}", f"one folder alone: {inside[0].name}", LAYOUTS, f"edgekd init --data {inside[0]}"
        )
    if not inside:
        raise UsageError(f"--data {folder}", "no class folders and no Parquet", LAYOUTS)
    return _folders(folder)


def _folders(folder: Path) -> Images:
    layout, places = folders.listing(folder, f"--data {folder}")
    for place, inside in places.items():
        if not any(folders.is_image(file) for file in inside):
            raise RecipeError(str(place), "a class without images", "at least one image", "remove the folder")
    files = [(file.relative_to(folder), place, file) for place, inside in places.items() for file in inside]
    for name, _, _ in files:
        if any("\ud800" <= letter <= "\udfff" for letter in str(name)):  # no recipe could name it
            raise RecipeError(ascii(str(folder / name)), "a name that is no UTF-8", "a name of characters", "rename it")
    pictures = [entry for entry in files if folders.is_image(entry[2])]
    names = [name.parts for name, _, _ in pictures]
    folders.arrange(names, layout, np.arange(len(names)), f"--data {folder}")
    items = [Item(name.as_posix(), _split(name, layout), place.name, file.read_bytes) for name, place, file in pictures]
    strangers = tuple(name.as_posix() for name, _, file in files if not folders.is_image(file))
    beside = [folder] if layout == "class folders" else [folder, *folders.subfolders(folder)]
    outside = sum(path.is_file() and not path.name.startswith(".") for place in beside for path in place.iterdir())
    return Images(folder, "imagefolder", layout, items, len(items), strangers, outside)


def _split(name: Path, layout: str) -> str:
    return "all" if layout == "class folders" else folders.SPLIT_FOLDERS[name.parts[0]]


def _parquet(folder: Path) -> Images:
    found = shards.open_shards(shards.parquet_files(folder), f"--data {folder}")
    return Images(
        folder, "parquet", "parquet", _rows(found, folder), sum(len(labels) for labels in found.labels.values())
    )


def _rows(found: shards.Shards, folder: Path) -> Iterator[Item]:
    for split, stream in found.streams.items():
        for label, (where, blob) in zip(found.labels[split].tolist(), stream.read(), strict=True):
            name = where.removeprefix(f"{folder}/")
            yield Item(name, split, found.classes[label], partial(bytes, blob))
