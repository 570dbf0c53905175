"""A folder of photos as nobody prepared them, made from CIFAR-10, with every fault that `edgekd init` is to find planted in it.

python tests/make_photos.py FOLDER --data-root ROOT [--images 2500]
"""

from __future__ import annotations

import argparse
import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[np.uint8]
SIZES = (32, 32, 32, 40, 48)  # pixels: most as they come, some enlarged


def write_photos(folder: Path, images: Array, labels: Sequence[int], classes: Sequence[str]) -> None:
    """One PNG an image: every 13th is grey, sizes are mixed."""
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        photo = Image.fromarray(image)
        side = SIZES[row % len(SIZES)]
        photo = photo.resize((side, side), Image.Resampling.BICUBIC) if side != image.shape[0] else photo
        place = folder / classes[label] / f"{row:05}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        (photo.convert("L") if row % 13 == 0 else photo).save(place)


def plant(folder: Path, classes: Sequence[str]) -> dict[str, list[str]]:
    """Faults among the photos of the first three classes: {fault: names below the folder}.

    Needs 3 photos in the first and 2 in the second.
    """
    one, two = (sorted((folder / name).glob("*.png")) for name in classes[:2])
    first, second, third = classes[:3]
    files = {
        f"{first}/cut.png": one[0].read_bytes()[:-200],
        f"{first}/empty.png": b"",
        f"{second}/text.png": b"not a picture at all\n",
        f"{second}/bomb.png": _bomb(),
        f"{third}/deep.png": _png(Image.fromarray(np.zeros((32, 32), dtype=np.uint16))),
        f"{first}/copy.png": one[1].read_bytes(),
        f"{second}/other_bytes.bmp": _encoded(two[1], "BMP"),  # the same pixels in another format
        f"{third}/also_{first}.png": one[2].read_bytes(),
        f"{first}/notes.txt": b"from my phone\n",
        f"{third}/labels.TXT": b"42\n",
        f"{first}/Thumbs.db": b"left by a desktop",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "readme.md").write_text("beside the class folders\n", encoding="utf-8")
    return {
        "broken": sorted([f"{first}/cut.png", f"{first}/empty.png", f"{second}/text.png", f"{second}/bomb.png", f"{third}/deep.png"]),
        "not_images": sorted([f"{first}/notes.txt", f"{third}/labels.TXT"]),
        "copies": sorted([f"{first}/copy.png", f"{second}/other_bytes.bmp"]),
        "contradicting": sorted([f"{first}/{one[2].name}", f"{third}/also_{first}.png"]),
    }  # fmt: skip


def _encoded(file: Path, kind: str) -> bytes:
    with Image.open(file) as image:
        return _png(image, kind)


def _png(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def _bomb() -> bytes:
    """A PNG of a few bytes that says it has 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def main() -> None:
    """Write the folder: 10 classes, the first with 7 times the photos of the last."""
    from edgekd.console import Console
    from edgekd.data.cifar10 import CIFAR10

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2500)
    given = parser.parse_args()
    source = CIFAR10()
    data = source.decode(source.locate([given.data_root]), None, None, Console())
    images, labels = data.splits["train"]
    share = np.linspace(7, 1, len(data.classes))
    counts = np.floor(given.images * share / share.sum()).astype(int)
    rows = np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label, count in enumerate(counts)]))
    write_photos(given.folder, images[rows], labels[rows].tolist(), data.classes)
    for fault, names in plant(given.folder, data.classes).items():
        print(f"{fault}: {', '.join(names)}")  # noqa: T201


if __name__ == "__main__":
    main()
