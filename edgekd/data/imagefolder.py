"""A folder of image files, one subfolder a class: `train/<class>/*` and `test|val/<class>/*`, or bare `<class>/*`.

Bare folders get a fixed stratified 80/20 train/test split. Classes are sorted by name.

Source: the layout of torchvision.datasets.ImageFolder; its list of file endings.
Needs: nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekd.console import Console
from edgekd.data.base import Allocate, DataSource, Decoded, Located, find_folder, in_memory
from edgekd.data.folders import decode_folders, locate_folders, subfolders


class ImageFolder(DataSource):
    """A folder of image files.

    Args:
        path: The folder, as a name beside the recipe or below a data root, or absolute.
        skip: Files to leave out, by name (`train/cat/1.png`) or, for all of an ending, `*.txt`; each must be there.

    Training images are cropped and never mirrored (`data.augment: [crop4, flip]` adds it).
    """

    name = "imagefolder"
    augment = ("crop4",)

    def __init__(self, path: str, skip: list[str] | None = None) -> None:
        self.path = path
        self.skip = skip or []

    def locate(self, roots: Sequence[Path]) -> Located:
        """See `DataSource.locate`."""
        folder = find_folder("data.path", self.path, roots, lambda place: bool(subfolders(place)), "<class>/ folders")
        return locate_folders(folder.name, folder, "data.path", self.skip)

    def decode(
        self, located: Located, size: int | None, resize: str | None, console: Console, allocate: Allocate = in_memory
    ) -> Decoded:
        """See `DataSource.decode`."""
        return decode_folders(located, size, resize, console, allocate, "data.path")
