"""What a data set kind is: finding its files without decoding them, and decoding them once to uint8 arrays."""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from edgekd.console import Console
from edgekd.errors import IntegrityError, RecipeError

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Allocate = Callable[[str, tuple[int, ...]], Images]  # (split, shape) -> array to decode into

SPLITS = ("train", "val", "test")
AUGMENTATIONS = (r"crop[1-9]\d?", "rrc", "flip")  # tokens; edgekd/augment.py carries them out
RESIZE_RULES = ("fit-crop", "squash", "photo")
ROOT_HINT = "set EDGEKD_DATA or --data-root"

T = TypeVar("T")


@dataclass(frozen=True)
class Located:
    """The files of a data set, found but not decoded.

    Attributes:
        name: What to call the data set in reports.
        folder: The folder that was found.
        files: Every source file, sorted by its name below the folder that was found.
        hashes: SHA-256 of each file's bytes, in the order of `files`.
        layout: Which of the kind's layouts they are in.
        sources: SHA-256 over the sorted (relative name, SHA-256 of the bytes): the content, wherever it lies.
        parts: Where a set lies in two layouts: each of them; `files` has the files of both.
        skipped: How many files the recipe leaves out by name.
    """

    name: str
    folder: Path
    files: tuple[Path, ...]
    hashes: tuple[str, ...]
    layout: str
    sources: str
    parts: tuple[Located, ...] = ()
    skipped: int = 0


@dataclass(frozen=True)
class Photos:
    """Images of many sizes, one after the other.

    Attributes:
        pixels: uint8 [bytes]; may be a memory map.
        index: int64 [N, 3]: first byte, height and width of each.
        channels: 1 or 3.
    """

    pixels: Images
    index: npt.NDArray[np.int64]
    channels: int

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> Images:
        """One photo [h, w, C]: a view of the store."""
        first, height, width = (int(value) for value in self.index[row])
        return self.pixels[first : first + height * width * self.channels].reshape(height, width, self.channels)

    def only(self, rows: npt.NDArray[np.int64] | slice) -> Photos:
        """Those rows, in the same store."""
        return Photos(self.pixels, self.index[rows], self.channels)


@dataclass(frozen=True)
class Decoded:
    """A data set as arrays.

    Attributes:
        classes: Class names, in label order.
        splits: `train`, `test` and perhaps `val` -> (uint8 [N, H, W, C], int64 [N]).
        split_rule: One sentence: where the splits come from.
        layout: The layout that was decoded.
        photos: With `resize: photo`, the training images before they were cut to a square.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Images, Labels]]
    split_rule: str
    layout: str
    photos: Photos | None = None


@dataclass(frozen=True)
class Expected:
    """Shape of a data set as its source ships it, known before it is decoded: for estimates only.

    Attributes:
        train: Training images.
        test: Test images.
        classes: Number of classes.
        channels: 1 or 3.
        height: Pixels.
        width: Pixels.
    """

    train: int
    test: int
    classes: int
    channels: int
    height: int
    width: int


def in_memory(split: str, shape: tuple[int, ...]) -> Images:
    """The plain `Allocate`: an array in RAM."""
    return np.empty(shape, dtype=np.uint8)


class DataSource(ABC):
    """One kind of data set; the constructor's arguments are its recipe arguments.

    Attributes:
        name: The kind: the plugin's file name.
        augment: Default augmentation tokens of training.
        normalize: (mean, std) a channel of images in [0, 1]; None: measured on train.
        expected: Shape, where it is the same for everybody; None: only decoding tells.
    """

    VERSION: ClassVar[int] = 1
    name: ClassVar[str]
    augment: tuple[str, ...] = ()
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    expected: Expected | None = None

    @abstractmethod
    def locate(self, roots: Sequence[Path]) -> Located:
        """Find and hash the files; imports no framework.

        Raises:
            RecipeError: They are nowhere; every place looked in is listed.
        """

    @abstractmethod
    def decode(
        self, located: Located, size: int | None, resize: str | None, console: Console, allocate: Allocate = in_memory
    ) -> Decoded:
        """Decode every image to uint8 [N, H, W, C], C = 1 or 3.

        Args:
            located: What `locate` gave.
            size: Side in pixels that every image is brought to; None: as they are, which must be one size.
            resize: One of RESIZE_RULES; None: `fit-crop`. `photo` keeps the whole training images beside.
            console: Shows progress.
            allocate: Gives the array of each split, so that a large one need not fit in RAM.

        Raises:
            RecipeError: Images of several sizes and no `size`; splits or classes that do not go together.
            IntegrityError: A file or an image is corrupt; file and row are named.
        """


def check_augment(tokens: Iterable[str], where: str = "data.augment") -> None:
    """Raise RecipeError unless every token is known and stands once."""
    seen: set[str] = set()
    for token in tokens:
        kind = re.sub(r"\d+$", "", token)
        if not any(re.fullmatch(pattern, token) for pattern in AUGMENTATIONS):
            raise RecipeError(
                where, f"unknown augmentation {token!r}", "crop<pixels>, rrc, flip", "augment: [crop4, flip]"
            )
        if kind in seen:
            raise RecipeError(where, f"{kind!r} stands twice", "each augmentation once")
        seen.add(kind)
    if {"crop", "rrc"} <= seen:
        raise RecipeError(where, "crop<pixels> beside rrc", "one way to crop", "augment: [rrc, flip]")


def check_resize(size: int | None, resize: str | None) -> None:
    """Raise RecipeError unless `data.size` and `data.resize` can be carried out."""
    if size is not None and size < 1:
        raise RecipeError("data.size", str(size), "at least 1 pixel")
    if resize is not None and resize not in RESIZE_RULES:
        raise RecipeError("data.resize", repr(resize), " or ".join(RESIZE_RULES))
    if resize is not None and size is None:
        raise RecipeError("data.resize", f"{resize!r} without a size", "data.size beside it", "data: {size: 32, ...}")


def places(name: str, roots: Sequence[Path]) -> tuple[Path, ...]:
    """Where a data set may lie: `<root>/<name>` and `<root>/data/<name>`; an absolute name is taken as given."""
    path = Path(os.path.expanduser(name))  # noqa: PTH111 - Path.expanduser raises where `~name` is a folder and no user
    if path.is_absolute():
        return (path,)
    return tuple(place for root in roots for place in (root / name, root / "data" / name))


def not_found(where: str, name: str, looked: Sequence[Path], wanted: str) -> RecipeError:
    """The error for a data set that is in none of the places; each is listed with what was there."""
    lines = [f"{place} ({'there, but without ' + wanted if place.is_dir() else 'no such folder'})" for place in looked]
    listed = "".join(f"\n    {line}" for line in lines) or "\n    nowhere: no data root is given"
    return RecipeError(where, f"data set {name!r} not found; looked in:{listed}", f"a folder with {wanted}", ROOT_HINT)


def find_folder(where: str, name: str, roots: Sequence[Path], holds: Callable[[Path], bool], wanted: str) -> Path:
    """The first place that is a folder and holds what is wanted.

    Raises:
        RecipeError: None does.
    """
    looked = places(name, roots)
    for place in looked:
        if place.is_dir() and holds(place):
            return place
    raise not_found(where, name, looked, wanted)


def locate_files(name: str, folder: Path, files: Iterable[Path], layout: str) -> Located:
    """Hash the files of a folder.

    Raises:
        IntegrityError: One cannot be read.
    """
    ordered = sorted(files, key=lambda path: path.relative_to(folder).as_posix())
    hashes = tuple(_hash(path) for path in ordered)
    listing = [
        f"{path.relative_to(folder).as_posix()}\0{digest}\n" for path, digest in zip(ordered, hashes, strict=True)
    ]
    sources = hashlib.sha256("".join(listing).encode("utf-8", "surrogateescape"))  # a name need not be UTF-8
    return Located(name, folder, tuple(ordered), hashes, layout, sources.hexdigest())


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise IntegrityError(str(path), f"cannot be read ({error.strerror})") from error


def settle_splits(found: Mapping[str, T], where: str) -> tuple[dict[str, T], str]:
    """Name the splits that a source brings: with no test, its val is the test split.

    Returns:
        The splits by role name, and the rule in words.

    Raises:
        RecipeError: No train, or neither test nor val.
    """
    if "train" not in found or not {"test", "val"} & set(found):
        have = ", ".join(sorted(found)) or "none"
        raise RecipeError(where, f"splits found: {have}", "train, and test or val")
    if "test" in found:
        ordered = {split: found[split] for split in SPLITS if split in found}
        return ordered, "the source's own " + ", ".join(ordered)
    return {"train": found["train"], "test": found["val"]}, "the source's own train; its val is the test split"
