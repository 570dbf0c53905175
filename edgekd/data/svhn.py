"""SVHN, cropped digits: 73,257 training and 26,032 test images of 32x32 RGB; the extra images are not used.

Read from Hugging Face Parquet (folder `svhn`, or `cropped_digits` inside it) or from `train_32x32.mat` and
`test_32x32.mat` in `svhn` or `SVHN`, where label 10 is the digit 0.

Source: Y. Netzer et al., "Reading Digits in Natural Images with Unsupervised Feature Learning", 2011.
Augmentation: CIFAR's crop, never mirrored: a mirrored digit is another sign.
Needs: the data itself, which its authors publish for non-commercial use; edgekd does not ship it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekd.console import Console
from edgekd.data.base import Allocate, DataSource, Decoded, Expected, Located, in_memory, locate_files, places
from edgekd.data.images import place_arrays
from edgekd.data.layouts import decode_either, either, find_parquet
from edgekd.data.matlab import read_digits
from edgekd.data.normalize import NAMED
from edgekd.data.shards import parquet_files

FOLDERS = ("svhn", "SVHN")
FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
CLASSES = tuple(str(digit) for digit in range(10))


class SVHN(DataSource):
    """House numbers from street photographs, one digit an image."""

    name = "svhn"
    augment = ("crop4",)
    normalize = NAMED["svhn"]
    expected = Expected(train=73_257, test=26_032, classes=10, channels=3, height=32, width=32)

    def locate(self, roots: Sequence[Path]) -> Located:
        """See `DataSource.locate`."""
        looked = [place for name in FOLDERS for place in places(name, roots)]
        folder = next((place for place in looked if all((place / file).is_file() for file in FILES.values())), None)
        own = None
        if folder is not None:
            own = locate_files(self.name, folder, [folder / file for file in FILES.values()], "matlab")
        wanted = f"*.parquet or {' and '.join(FILES.values())}"
        return either(self.name, find_parquet(self.name, looked, _cropped_digits), own, looked, wanted)

    def decode(
        self, located: Located, size: int | None, resize: str | None, console: Console, allocate: Allocate = in_memory
    ) -> Decoded:
        """See `DataSource.decode`."""
        return decode_either(located, _decode_matlab, size, resize, console, allocate)


def _cropped_digits(folder: Path) -> list[Path]:
    """Parquet of the cropped digits: beside them the source ships whole house numbers, and more training images."""
    inside = folder / "cropped_digits"
    return [file for file in parquet_files(inside if inside.is_dir() else folder) if not file.name.startswith("extra")]


def _decode_matlab(
    located: Located, size: int | None, resize: str | None, console: Console, allocate: Allocate
) -> Decoded:
    read = {split: read_digits(located.folder / file) for split, file in FILES.items()}
    splits, photos = place_arrays(read, size, resize, allocate)
    return Decoded(CLASSES, splits, "the source's own train, test", located.layout, photos)
