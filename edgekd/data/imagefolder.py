"""A folder of image files, one subfolder a class: `train/<class>/*` and `test|val/<class>/*`, or bare `<class>/*`.

Bare folders get a fixed stratified 80/20 train/test split. Classes are sorted by name.

Source: the layout of torchvision.datasets.ImageFolder; its list of file endings.
Needs: nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from edgekd.console import Console
from edgekd.data.base import (
    Allocate,
    DataSource,
    Decoded,
    Labels,
    Located,
    find_folder,
    in_memory,
    locate_files,
    settle_splits,
)
from edgekd.data.images import Encoded, Stream, decode_streams
from edgekd.data.stratify import Rows, fixed_split
from edgekd.errors import IntegrityError, RecipeError

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
LEFT_BY_DESKTOPS = ("thumbs.db", "desktop.ini")  # beside names that begin with a dot
SPLIT_FOLDERS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
TEST_FRACTION = 0.2


class ImageFolder(DataSource):
    """A folder of image files.

    Args:
        path: The folder, as a name below a data root or absolute.

    Training images are cropped and never mirrored (`data.augment: [crop4, flip]` adds it).
    """

    name = "imagefolder"
    augment = ("crop4",)

    def __init__(self, path: str) -> None:
        self.path = path

    def locate(self, roots: Sequence[Path]) -> Located:
        """See `DataSource.locate`."""
        folder = find_folder("data.path", self.path, roots, lambda place: bool(_subfolders(place)), "<class>/ folders")
        names = [place.name for place in _subfolders(folder)]
        if not set(names) & set(SPLIT_FOLDERS):
            return locate_files(folder.name, folder, _image_files(folder, 1), "class folders")
        for name in names:
            if name not in SPLIT_FOLDERS:
                raise RecipeError("data.path", f"{folder / name} beside split folders", ", ".join(SPLIT_FOLDERS))
        return locate_files(folder.name, folder, _image_files(folder, 2), "split folders")

    def decode(
        self, located: Located, size: int | None, resize: str | None, console: Console, allocate: Allocate = in_memory
    ) -> Decoded:
        """See `DataSource.decode`."""
        parts = [file.relative_to(located.folder).parts for file in located.files]
        if located.layout == "class folders":
            classes, labels = _label([part[0] for part in parts])
            train, test, rule = fixed_split(labels, np.array(located.hashes), TEST_FRACTION)
            rows = {"train": train, "test": test}
        else:
            classes, labels = _label([part[1] for part in parts])
            names = np.array([SPLIT_FOLDERS[part[0]] for part in parts])
            rows, rule = settle_splits(
                {str(name): np.flatnonzero(names == name) for name in np.unique(names)}, "data.path"
            )
            _check_classes(classes, labels, rows)
        streams = {name: Stream(len(part), partial(_encoded, located.files, part)) for name, part in rows.items()}
        images = decode_streams(streams, size, resize, console, allocate)
        return Decoded(classes, {name: (images[name], labels[rows[name]]) for name in rows}, rule, located.layout)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))


def _image_files(folder: Path, depth: int) -> list[Path]:
    """The files below the class folders, `depth` levels down; anything that is no image is an error, not a gap."""
    class_folders = [folder]
    for _ in range(depth):
        class_folders = [place for parent in class_folders for place in _subfolders(parent)]
    found: list[Path] = []
    for place in class_folders:
        files = [
            path for path in sorted(place.rglob("*")) if path.is_file() and not _is_litter(path.relative_to(folder))
        ]
        for path in files:
            if path.suffix.lower() not in ENDINGS:
                raise RecipeError(
                    str(path), "not a kind of image that is read here", " ".join(ENDINGS), "convert or move it"
                )
        if not files:
            raise RecipeError(str(place), "a class without images", "at least one image")
        found += files
    return found


def _is_litter(path: Path) -> bool:
    return path.name.lower() in LEFT_BY_DESKTOPS or any(part.startswith(".") for part in path.parts)


def _label(names: Sequence[str]) -> tuple[tuple[str, ...], Labels]:
    classes, labels = np.unique(np.array(names), return_inverse=True)
    if len(classes) < 2:
        raise RecipeError("data.path", f"classes found: {', '.join(classes)}", "two or more class folders")
    return tuple(str(name) for name in classes), labels.astype(np.int64)


def _check_classes(classes: tuple[str, ...], labels: Labels, rows: dict[str, Rows]) -> None:
    for split, chosen in rows.items():
        missing = set(range(len(classes))) - set(labels[chosen].tolist())
        if missing:
            name = classes[min(missing)]
            raise RecipeError("data.path", f"{split} has no folder {name!r}", "the same class folders in every split")


def _encoded(files: Sequence[Path], rows: Rows) -> Iterator[Encoded]:
    for row in rows:
        file = files[int(row)]
        try:
            yield str(file), file.read_bytes()
        except OSError as error:
            raise IntegrityError(str(file), f"cannot be read ({error.strerror})") from error
