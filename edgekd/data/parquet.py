"""Any folder of image Parquet as Hugging Face `datasets` writes it.

Files belong to splits by name: train*, test*, validation*, val*. With no test, val is the test split.

Source: Hugging Face `datasets`, features `Image` and `ClassLabel`.
Needs: nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekd.console import Console
from edgekd.data.base import Allocate, DataSource, Decoded, Located, find_folder, in_memory, locate_files
from edgekd.data.shards import decode_shards, parquet_files


class ImageParquet(DataSource):
    """A folder of Parquet files.

    Args:
        path: The folder, as a name beside the recipe or below a data root, or absolute.

    Training images are cropped and never mirrored: whether a mirror image keeps its class only the owner of the data
    knows (`data.augment: [crop4, flip]` adds it).
    """

    name = "parquet"
    augment = ("crop4",)

    def __init__(self, path: str) -> None:
        self.path = path

    def locate(self, roots: Sequence[Path]) -> Located:
        """See `DataSource.locate`."""
        folder = find_folder("data.path", self.path, roots, lambda place: bool(parquet_files(place)), "*.parquet")
        return locate_files(folder.name, folder, parquet_files(folder), "parquet")

    def decode(
        self, located: Located, size: int | None, resize: str | None, console: Console, allocate: Allocate = in_memory
    ) -> Decoded:
        """See `DataSource.decode`."""
        return decode_shards(located.files, size, resize, console, allocate, "data.path")
