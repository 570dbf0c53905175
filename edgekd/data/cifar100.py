"""CIFAR-100: 50,000 training and 10,000 test images of 32x32 RGB in 100 classes; the 20 coarse classes are not used.

Read from Hugging Face Parquet (folder `cifar100`) or from torchvision's `cifar-100-python`.

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
    folder="cifar-100-python",
    train=("train",),
    test=("test",),
    meta="meta",
    labels=b"fine_labels",
    names=b"fine_label_names",
)


class CIFAR100(DataSource):
    """A hundred classes of small photographs."""

    name = "cifar100"
    augment = ("crop4", "flip")
    normalize = NAMED["cifar100"]
    expected = Expected(train=50_000, test=10_000, classes=100, channels=3, height=32, width=32)

    def locate(self, roots: Sequence[Path]) -> Located:
        """See `DataSource.locate`; `cifar-100-python` may also lie inside `cifar100`."""
        return locate_batches(self.name, BATCHES, roots)

    def decode(
        self, located: Located, size: int | None, resize: str | None, console: Console, allocate: Allocate = in_memory
    ) -> Decoded:
        """See `DataSource.decode`."""
        own = partial(decode_batches, BATCHES)
        return decode_either(located, own, size, resize, console, allocate, label="fine_label")
