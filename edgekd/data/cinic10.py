"""CINIC-10: 90,000 training, 90,000 validation and 90,000 test images of 32x32 RGB in the 10 classes of CIFAR-10.

Read from Hugging Face Parquet (folder `cinic10`), or from its authors' folders `train`, `valid` and `test` in `cinic10` or
`CINIC-10`. The set's own `valid` is the val role. It holds CIFAR-10 and reduced ImageNet photos, and the same picture can be
in two splits: `data.duplicates` says what becomes of it.

Source: L. Darlow, E. Crowley, A. Antoniou, A. Storkey, "CINIC-10 Is Not ImageNet or CIFAR-10", 2018.
Augmentation: as CIFAR-10; statistics: its authors'.
Needs: the data itself; edgekd does not ship it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from edgekd.console import Console
from edgekd.data.base import Allocate, DataSource, Decoded, Expected, Located, in_memory, places
from edgekd.data.folders import decode_folders, locate_folders
from edgekd.data.layouts import decode_either, either, find_parquet
from edgekd.data.normalize import NAMED

FOLDERS = ("cinic10", "CINIC-10")
SPLITS = ("train", "valid", "test")


class CINIC10(DataSource):
    """Ten classes of small photographs, from two sources."""

    name = "cinic10"
    augment = ("crop4", "flip")
    normalize = NAMED["cinic10"]
    expected = Expected(train=90_000, test=90_000, classes=10, channels=3, height=32, width=32)

    def locate(self, roots: Sequence[Path]) -> Located:
        """See `DataSource.locate`."""
        looked = [place for name in FOLDERS for place in places(name, roots)]
        folder = next((place for place in looked if all((place / split).is_dir() for split in SPLITS)), None)
        own = None if folder is None else locate_folders(self.name, folder, "data.use")
        wanted = f"*.parquet or folders {', '.join(SPLITS)}"
        return either(self.name, find_parquet(self.name, looked), own, looked, wanted)

    def decode(
        self, located: Located, size: int | None, resize: str | None, console: Console, allocate: Allocate = in_memory
    ) -> Decoded:
        """See `DataSource.decode`."""
        own = partial(decode_folders, where="data.use")
        return decode_either(located, own, size, resize, console, allocate)
