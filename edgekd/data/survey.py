"""What a set of images holds, looked at one by one before anything is made of it: sizes, grey or colour, equal pixels, faults."""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from PIL import Image, UnidentifiedImageError

from edgekd.console import Console
from edgekd.data.images import Form, probe, to_array
from edgekd.errors import IntegrityError
from edgekd.runner.state import usable_cores

CHUNK = 32  # images a thread looks at in one go
WAVE = 32  # chunks that wait for a thread at a time: the encoded images of a Parquet file need not fit in RAM


@dataclass(frozen=True)
class Item:
    """An image to look at: its name, split and class, and a function that gives its encoded bytes."""

    name: str
    split: str
    label: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Looked:
    """What was seen of an image.

    Attributes:
        name: As in the item, as are split and label.
        split: See name.
        label: See name.
        form: Size and channels; None with a fault.
        digest: 16-byte BLAKE2b of size and RGB pixels: images that the network cannot tell apart have one digest.
        fault: Why it cannot be used; empty: it can.
    """

    name: str
    split: str
    label: str
    form: Form | None = None
    digest: bytes = b""
    fault: str = ""


@dataclass(frozen=True)
class Equal:
    """Images with the same pixels.

    Attributes:
        copies: In one class and split: the names of all but the first, which stays.
        contradicting: In two or more classes: one group a picture; at least one label is wrong.
        shared: In one class and two or more splits: one group a picture.
    """

    copies: tuple[str, ...]
    contradicting: tuple[tuple[str, ...], ...]
    shared: tuple[tuple[str, ...], ...]


def look(items: Iterable[Item], total: int, console: Console) -> list[Looked]:
    """Decode every image once, by exactly the rules by which stage `data` will; nothing is kept but what was seen."""
    waiting = iter(items)
    seen: list[Looked] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(usable_cores() or 1) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with console.task("look at images", total, "images") as task:
            while wave := list(islice(waiting, CHUNK * WAVE)):
                chunks = [wave[i : i + CHUNK] for i in range(0, len(wave), CHUNK)]
                for block in pool.map(lambda chunk: [_look(item) for item in chunk], chunks):
                    seen += block
                    task.advance(len(block))
    return seen


def equal(seen: Sequence[Looked]) -> Equal:
    """The groups of images with the same pixels, those with a fault left out."""
    groups: dict[bytes, list[Looked]] = defaultdict(list)
    for image in seen:
        if not image.fault:
            groups[image.digest].append(image)
    repeated = [sorted(group, key=lambda image: image.name) for group in groups.values() if len(group) > 1]
    wrong = [group for group in repeated if len({image.label for image in group}) > 1]
    agreed = [group for group in repeated if len({image.label for image in group}) == 1]
    shared = [group for group in agreed if len({image.split for image in group}) > 1]
    return Equal(
        tuple(sorted(name for group in agreed for name in _copies(group))),
        tuple(sorted(_names(group) for group in wrong)),
        tuple(sorted(_names(group) for group in shared)),
    )


def _copies(group: Sequence[Looked]) -> Iterator[str]:
    splits: set[str] = set()
    for image in group:
        if image.split in splits:
            yield image.name
        splits.add(image.split)


def _names(group: Sequence[Looked]) -> tuple[str, ...]:
    return tuple(image.name for image in group)


def _look(item: Item) -> Looked:
    try:
        blob = item.read()
    except OSError as error:
        return _faulty(item, f"cannot be read ({error.strerror})")
    if not blob:
        return _faulty(item, "empty file")
    try:
        form = probe(blob, item.name)
        pixels = to_array(blob, item.name, Form(form.height, form.width, 3))
    except IntegrityError as error:
        return _faulty(item, _reason(error))
    digest = hashlib.blake2b(f"{form.width}x{form.height}:".encode(), digest_size=16)
    digest.update(pixels.data)
    return Looked(item.name, item.split, item.label, form, digest.digest())


def _faulty(item: Item, fault: str) -> Looked:
    return Looked(item.name, item.split, item.label, fault=fault)


def _reason(error: IntegrityError) -> str:
    """The error in a few words that tell one kind of fault from another."""
    cause = error.__cause__
    if isinstance(cause, UnidentifiedImageError):
        return "not an image, whatever its name says"
    if isinstance(cause, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "decompression bomb: too many pixels"
    return error.found if cause is None else f"damaged: {cause}"
