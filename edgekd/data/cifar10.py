"""CIFAR-10: 50,000 training and 10,000 test images of 32x32 RGB in 10 classes.

Read from Hugging Face-style image Parquet (folder `cifar10`) or from torchvision's `cifar-10-batches-py`. With both, their
content must be equal and the Parquet is used.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report, University of Toronto, 2009.
Augmentation and statistics: the protocol of RepDistiller and mdistiller (zero-pad 4, crop 32, flip).
Needs: the data itself, which its authors publish without a licence; edgekd does not ship it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekd.console import Console
from edgekd.data.base import (
    Allocate,
    DataSource,
    Decoded,
    Expected,
    Located,
    in_memory,
    locate_files,
    not_found,
    places,
)
from edgekd.data.batches import FILES, TEST_FILES, TRAIN_FILES, class_names, read_batches
from edgekd.data.images import resize_all
from edgekd.data.shards import decode_shards, parquet_files
from edgekd.data.stratify import content_hashes
from edgekd.errors import RecipeError

BATCHES = "cifar-10-batches-py"
BOTH = "parquet+torchvision"


class CIFAR10(DataSource):
    """Ten classes of small photographs."""

    name = "cifar10"
    augment = ("crop4", "flip")
    normalize = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    expected = Expected(train=50_000, test=10_000, classes=10, channels=3, height=32, width=32)

    def locate(self, roots: Sequence[Path]) -> Located:
        """See `DataSource.locate`; `cifar-10-batches-py` may also lie inside `cifar10`."""
        folders = places(self.name, roots)
        batch_folders = [folder / BATCHES for folder in folders] + list(places(BATCHES, roots))
        shards = next((parquet_files(folder) for folder in folders if parquet_files(folder)), [])
        batches = next((folder for folder in batch_folders if all((folder / file).is_file() for file in FILES)), None)
        if batches is None and not shards:
            raise not_found(
                "data.use", self.name, [*folders, *batch_folders], f"*.parquet or {BATCHES}'s {len(FILES)} files"
            )
        table = locate_files(self.name, shards[0].parent, shards, "parquet") if shards else None
        if batches is None:
            assert table is not None
            return table
        pickled = locate_files(self.name, batches, [batches / file for file in FILES], "torchvision")
        if table is None:
            return pickled
        files, hashes = (*table.files, *pickled.files), (*table.hashes, *pickled.hashes)
        sources = hashlib.sha256(f"{table.sources}\n{pickled.sources}\n".encode()).hexdigest()
        return Located(self.name, table.folder, files, hashes, BOTH, sources)

    def decode(
        self, located: Located, size: int | None, resize: str | None, console: Console, allocate: Allocate = in_memory
    ) -> Decoded:
        """See `DataSource.decode`.

        Raises:
            RecipeError: Both layouts are there and differ.
        """
        shards = [file for file in located.files if file.suffix == ".parquet"]
        if located.layout == "torchvision":
            return _decode_batches(located.folder, size, resize, allocate)
        if located.layout == BOTH:
            batches = located.files[-1].parent
            table = decode_shards(shards, None, None, console, in_memory, "data.use")
            _check_equal(table, _decode_batches(batches, None, None, in_memory), located.folder, batches)
        return decode_shards(shards, size, resize, console, allocate, "data.use")


def _decode_batches(folder: Path, size: int | None, resize: str | None, allocate: Allocate) -> Decoded:
    classes = class_names(folder)
    splits = {}
    for split, files in (("train", TRAIN_FILES), ("test", TEST_FILES)):
        pixels, labels = read_batches(folder, files, len(classes))
        pixels = resize_all(pixels, size, resize)
        images = allocate(split, pixels.shape)
        images[:] = pixels
        splits[split] = (images, labels)
    return Decoded(classes, splits, "the source's own train, test", "torchvision")


def _check_equal(table: Decoded, batches: Decoded, folder: Path, other: Path) -> None:
    """The same labelled images in every split, in whatever order."""
    same = table.classes == batches.classes and set(table.splits) == set(batches.splits)
    if not same or any(_content(table, split) != _content(batches, split) for split in table.splits):
        raise RecipeError(
            "data.use",
            f"two different CIFAR-10: {folder} and {other}",
            "one of them, or both with equal content",
            "move one away, or set EDGEKD_DATA or --data-root to the folder of the right one",
        )


def _content(decoded: Decoded, split: str) -> list[tuple[bytes, int]]:
    images, labels = decoded.splits[split]
    return sorted(zip(content_hashes(np.asarray(images)).tolist(), labels.tolist(), strict=True))
