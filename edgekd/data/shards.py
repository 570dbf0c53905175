"""Image Parquet as Hugging Face `datasets` writes it: `image` or `img` struct{bytes, path}, `label`, class names in the metadata.

The `path` column is never read: it often names the class.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.console import Console
from edgekd.data.base import Allocate, Decoded, Labels, settle_splits
from edgekd.data.classnames import check_class_names
from edgekd.data.images import Encoded, Stream, decode_streams
from edgekd.errors import IntegrityError, RecipeError

IMAGE_COLUMNS = ("image", "img")
SPLIT_NAMES = (("train", "train"), ("test", "test"), ("validation", "val"), ("valid", "val"), ("val", "val"))


def parquet_files(folder: Path) -> list[Path]:
    """The *.parquet files of a folder; of its only subfolder that has any when it has none itself."""
    inside = sorted(folder.glob("*.parquet"))
    below = sorted(folder.glob("*/*.parquet"))
    return inside or (below if len({file.parent for file in below}) == 1 else [])


def split_of(file: Path) -> str:
    """train, test or val by the file's name.

    Raises:
        RecipeError: It begins with none of the split names.
    """
    for prefix, split in SPLIT_NAMES:
        if re.match(rf"{prefix}(?![a-z])", file.stem.lower()):
            return split
    raise RecipeError(
        str(file), "belongs to no split", "train*, test*, validation* or val*", "rename it or move it out of the folder"
    )


@dataclass(frozen=True)
class Shards:
    """Parquet files opened but not decoded: class names, and labels and encoded images by split."""

    classes: tuple[str, ...]
    labels: Mapping[str, Labels]
    streams: Mapping[str, Stream]
    rule: str


def decode_shards(
    files: Sequence[Path],
    size: int | None,
    resize: str | None,
    console: Console,
    allocate: Allocate,
    where: str = "data.use",
    label: str = "label",
) -> Decoded:
    """Decode the Parquet files of one data set.

    Args:
        files: All shards of all splits.
        size: See `DataSource.decode`, as for resize, console and allocate.
        resize: As above.
        console: As above.
        allocate: As above.
        where: The recipe key to name in errors about the set as a whole.
        label: The column of the labels.

    Raises:
        RecipeError: Splits, columns or class names that do not go together, or a missing shard.
        IntegrityError: A corrupt file, image or label.
    """
    shards = open_shards(files, where, label)
    images, photos = decode_streams(shards.streams, size, resize, console, allocate)
    splits = {split: (images[split], labels) for split, labels in shards.labels.items()}
    return Decoded(shards.classes, splits, shards.rule, "parquet", photos)


def open_shards(files: Sequence[Path], where: str, label: str = "label") -> Shards:
    """Class names, labels and encoded images of the Parquet files of one data set; see `decode_shards` for arguments and errors."""
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(split_of(file), []).append(file)
    shards, rule = settle_splits(found, where)
    for group in shards.values():
        _check_complete(group)
    names = {file: _class_names(file, label) for group in shards.values() for file in group}
    classes = next(iter(names.values()))
    for file, other in names.items():
        if other != classes:
            raise RecipeError(
                str(file), f"class names {list(other)[:5]}...", f"{list(classes)[:5]}... as in the others"
            )
    labels = {split: _labels(group, len(classes), label) for split, group in shards.items()}
    streams = {split: Stream(len(labels[split]), partial(_encoded, group)) for split, group in shards.items()}
    return Shards(classes, labels, streams, rule)


def _check_complete(group: Sequence[Path]) -> None:
    """Shards named `-00000-of-00003` must all be there: a missing one would give another data set without a word."""
    present = {match.groups() for file in group if (match := re.search(r"(\d+)-of-(\d+)$", file.stem))}
    for total in {total for _, total in present}:
        missing = set(range(int(total))) - {int(index) for index, of in present if of == total}
        if missing:
            raise RecipeError(str(group[0].parent), f"shard {min(missing)} of {int(total)} is missing", "every shard")


def _open(file: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(file, page_checksum_verification=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise IntegrityError(str(file), f"corrupt Parquet: {error}", "a Parquet file") from error


def _class_names(file: Path, label: str) -> tuple[str, ...]:
    with _open(file) as table:
        metadata = table.schema_arrow.metadata or {}
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise RecipeError(
            str(file),
            "no class names in the schema metadata",
            f"key `huggingface` with info.features.{label}.names",
            f"write it with Hugging Face datasets, {label} as ClassLabel",
        ) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < 2:
        raise RecipeError(str(file), f"class names {names!r:.80}", "two or more different names")
    check_class_names(names, str(file))
    return tuple(names)


def _batches(file: Path, column: str) -> Iterator[tuple[int, Any]]:
    """(first row, column as an Arrow array) of each row group; a damaged one is named by its rows."""
    import pyarrow

    with _open(file) as table:
        first = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            try:
                values = table.read_row_group(group, columns=[column]).column(0).combine_chunks()
            except (pyarrow.ArrowException, OSError, ValueError) as error:
                place = f"{file}, rows {first} to {first + rows - 1}"
                raise IntegrityError(place, f"corrupt Parquet: {error}", "a readable row group") from error
            if len(values) != rows:
                raise IntegrityError(str(file), f"{len(values)} rows in row group {group}", f"{rows}")
            yield first, values
            first += rows


def _labels(group: Sequence[Path], classes: int, label: str) -> Labels:
    import pyarrow

    parts = []
    for file in group:
        with _open(file) as table:
            columns = table.schema_arrow
        if label not in columns.names or not pyarrow.types.is_integer(columns.field(label).type):
            raise RecipeError(str(file), f"columns {', '.join(columns.names)}", f"an integer column `{label}`")
        for first, values in _batches(file, label):
            signed = values.cast(pyarrow.int64(), safe=False)  # what does not fit becomes negative
            labels = signed.fill_null(-1).to_numpy(zero_copy_only=False)
            wrong = np.flatnonzero((labels < 0) | (labels >= classes))
            if len(wrong):
                place = f"{file}, row {first + int(wrong[0])}"
                raise IntegrityError(place, f"label {values[int(wrong[0])]}", f"0 to {classes - 1}")
            parts.append(labels)
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])


def _encoded(group: Sequence[Path]) -> Iterator[Encoded]:
    import pyarrow

    for file in group:
        with _open(file) as table:
            columns = table.schema_arrow
        present = [name for name in IMAGE_COLUMNS if name in columns.names]
        kind = columns.field(present[0]).type if len(present) == 1 else None
        if kind is None or not pyarrow.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
            raise RecipeError(
                str(file), f"columns {', '.join(columns.names)}", "one of image, img: struct{bytes, path}"
            )
        for first, values in _batches(file, present[0]):
            for offset, blob in enumerate(values.field("bytes")):
                where = f"{file}, row {first + offset}"
                if not blob.is_valid:
                    raise IntegrityError(where, "no image bytes", "the encoded image inside the file")
                yield where, blob.as_py()
