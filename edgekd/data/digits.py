"""scikit-learn's handwritten digits: 1,797 real 8x8 grey images that need no download.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998 (its
test part, as scikit-learn ships it). Values 0..16 become 0..255 by round(value * 255 / 16). The train/test split is ours.
Needs: scikit-learn, whose data file is read without importing it.
"""

from __future__ import annotations

import gzip
import importlib.util
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekd.console import Console
from edgekd.data.base import Allocate, DataSource, Decoded, Expected, Located, in_memory, locate_files
from edgekd.data.images import place_arrays
from edgekd.data.stratify import content_hashes, fixed_split
from edgekd.errors import IntegrityError, MissingTool

SIDE = 8
LEVELS = 16  # a pixel counts the dark dots of a 4x4 block: 0..16
TEST_FRACTION = 0.2


class Digits(DataSource):
    """The digits 0 to 9, grey."""

    name = "digits"
    augment = ("crop1",)  # a mirrored digit is another sign: no flip
    expected = Expected(train=1438, test=359, classes=10, channels=1, height=SIDE, width=SIDE)

    def locate(self, roots: Sequence[Path]) -> Located:
        """See `DataSource.locate`; the roots are not needed."""
        spec = importlib.util.find_spec("sklearn")
        if spec is None or spec.origin is None:
            raise MissingTool(
                "data.use", "digits come with scikit-learn, which is not installed", "", "pip install scikit-learn"
            )
        folder = Path(spec.origin).parent / "datasets" / "data"
        return locate_files(self.name, folder, [folder / "digits.csv.gz"], "scikit-learn csv")

    def decode(
        self, located: Located, size: int | None, resize: str | None, console: Console, allocate: Allocate = in_memory
    ) -> Decoded:
        """See `DataSource.decode`."""
        table = _read(located.files[0])
        pixels, labels = table[:, :-1], table[:, -1]
        # Integer form of round-half-up; no value of 255 v / 16 with v < 16 ends in .5 but v = 8 (127.5 -> 128).
        grey = ((pixels * 255 * 2 + LEVELS) // (LEVELS * 2)).astype(np.uint8).reshape(-1, SIDE, SIDE, 1)
        train, test, rule = fixed_split(labels, content_hashes(grey), TEST_FRACTION)
        read = {split: (grey[rows], labels[rows]) for split, rows in (("train", train), ("test", test))}
        splits, photos = place_arrays(read, size, resize, allocate)
        return Decoded(tuple(str(digit) for digit in range(10)), splits, rule, located.layout, photos)


def _read(file: Path) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """[N, 65] int64: 64 pixels and the label.

    Raises:
        IntegrityError: Not the table that scikit-learn ships.
    """
    try:
        with gzip.open(file, "rt", encoding="ascii") as lines:
            table = np.loadtxt(lines, delimiter=",", ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise IntegrityError(str(file), f"corrupt table: {error}", "scikit-learn's digits.csv.gz") from error
    good = table.shape[1] == SIDE * SIDE + 1 and bool(np.all((table >= 0) & (table <= LEVELS) & (table % 1 == 0)))
    if not good or table[:, -1].max() > 9:
        raise IntegrityError(str(file), f"a table of {table.shape}", "rows of 64 values 0..16 and a digit")
    return table.astype(np.int64).reshape(len(table), -1)
