"""A data set that is published in two layouts, image Parquet and one of its own.

With both, their content must be equal and the Parquet is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgekd.console import Console
from edgekd.data.base import Allocate, Decoded, Located, in_memory, locate_files, not_found
from edgekd.data.shards import decode_shards, parquet_files
from edgekd.data.stratify import content_hashes
from edgekd.errors import RecipeError

Decode = Callable[[Located, int | None, str | None, Console, Allocate], Decoded]


def find_parquet(
    name: str, folders: Sequence[Path], files: Callable[[Path], list[Path]] = parquet_files
) -> Located | None:
    """The Parquet files in the first of the folders that has any, hashed; `files` gives those of a folder."""
    shards = next((found for folder in folders if (found := files(folder))), None)
    return None if shards is None else locate_files(name, shards[0].parent, shards, "parquet")


def either(name: str, parquet: Located | None, own: Located | None, looked: Sequence[Path], wanted: str) -> Located:
    """What was found of the two layouts, as one.

    Args:
        name: The data set.
        parquet: What `find_parquet` gave.
        own: The same of the set's own layout.
        looked: Every place looked in, for the error.
        wanted: What one of them should hold, for the error.

    Raises:
        RecipeError: Neither was found.
    """
    if parquet is None or own is None:
        alone = parquet or own
        if alone is None:
            raise not_found("data.use", name, looked, wanted)
        return alone
    files, hashes = (*parquet.files, *own.files), (*parquet.hashes, *own.hashes)
    sources = hashlib.sha256(f"{parquet.sources}\n{own.sources}\n".encode()).hexdigest()
    return Located(name, parquet.folder, files, hashes, f"parquet+{own.layout}", sources, (parquet, own))


def decode_either(
    located: Located,
    own: Decode,
    size: int | None,
    resize: str | None,
    console: Console,
    allocate: Allocate,
    label: str = "label",
) -> Decoded:
    """Decode what `either` gave; see `DataSource.decode`.

    Args:
        located: The files.
        own: Decodes the set's own layout.
        size: See `DataSource.decode`, as for resize, console and allocate.
        resize: As above.
        console: As above.
        allocate: As above.
        label: The Parquet column of the labels.

    Raises:
        RecipeError: Both layouts are there and differ.
    """
    if not located.parts and located.layout != "parquet":
        return own(located, size, resize, console, allocate)
    parquet = located
    if located.parts:
        parquet, other = located.parts
        table = decode_shards(parquet.files, None, None, console, in_memory, label=label)
        _check_equal(located, table, own(other, None, None, console, in_memory))
    return decode_shards(parquet.files, size, resize, console, allocate, label=label)


def _check_equal(located: Located, one: Decoded, other: Decoded) -> None:
    """The same labelled images in every split, in whatever order."""
    same = one.classes == other.classes and set(one.splits) == set(other.splits)
    if not same or any(_content(one, split) != _content(other, split) for split in one.splits):
        first, second = (part.folder for part in located.parts)
        raise RecipeError(
            "data.use",
            f"two different {located.name}: {first} and {second}",
            "one of them, or both with equal content",
            "move one away, or set EDGEKD_DATA or --data-root to the folder of the right one",
        )


def _content(decoded: Decoded, split: str) -> list[tuple[bytes, int]]:
    images, labels = decoded.splits[split]
    return sorted(zip(content_hashes(np.asarray(images)).tolist(), labels.tolist(), strict=True))
