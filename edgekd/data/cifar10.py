"""CIFAR-10: 50,000 training and 10,000 test images of 32x32 RGB in 10 classes.

Read from Hugging Face-style image Parquet (folder `cifar10`) or from torchvision's `cifar-10-batches-py`.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report, University of Toronto, 2009.
Augmentation and statistics: the protocol of RepDistiller and mdistiller (zero-pad 4, crop 32, flip).
Needs: the data itself, which its authors publish without a licence; edgekd does not ship it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from edgekd.console import Console
from edgekd.data.base import Allocate, DataSource, Decoded, Expected, Located, in_memory
from edgekd.data.batches import BatchFiles, decode_batches, locate_batches
from edgekd.data.layouts import decode_either
from edgekd.data.normalize import NAMED

BATCHES = BatchFiles(
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test=("test_batch",),
    meta="batches.meta",
    labels=b"labels",
    names=b"label_names",
)


class CIFAR10(DataSource):
    """Ten classes of small photographs."""

    name = "cifar10"
    augment = ("crop4", "flip")
    normalize = NAMED["cifar10"]
    expected = Expected(train=50_000, test=10_000, classes=10, channels=3, height=32, width=32)

    def locate(self, roots: Sequence[Path]) -> Located:
        """See `DataSource.locate`; `cifar-10-batches-py` may also lie inside `cifar10`."""
        return locate_batches(self.name, BATCHES, roots)

    def decode(
        self, located: Located, size: int | None, resize: str | None, console: Console, allocate: Allocate = in_memory
    ) -> Decoded:
        """See `DataSource.decode`."""
        own = partial(decode_batches, BATCHES)
        return decode_either(located, own, size, resize, console, allocate)
