"""Encoded images -> uint8 arrays of one size and one number of channels, checked image by image.

Rules: grey (modes 1, L, LA) stays one channel when every image is grey, else all become RGB (grey repeated); alpha is
dropped; more than 8 bits a channel is refused; EXIF orientation is not applied (torchvision's ImageFolder does not either).
`fit-crop`: shorter side resized to `size`, centre crop; `squash`: both sides resized to `size`; `photo`: see `photos`. All by
Pillow's antialiased bilinear.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
from PIL import Image

from edgekd.console import Console
from edgekd.data import photos
from edgekd.data.base import Allocate, Images, Labels, Photos
from edgekd.errors import IntegrityError, RecipeError
from edgekd.runner.state import usable_cores

# Raster formats that Pillow decodes itself; EPS is left out because Pillow hands it to Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
GREY_MODES = ("1", "L", "LA")
COLOUR_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr")
# What Pillow's decoders are seen to raise on damaged bytes, beside its own UnidentifiedImageError (an OSError).
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
CHUNK = 128  # images a thread decodes at a time: one by one, handing over costs more than a 32x32 image does
CHUNK_BYTES = 1 << 24  # decoded bytes of a chunk at most, so that large images do not fill the RAM

Encoded = tuple[str, bytes]  # (file and row, for errors; the encoded image)


@dataclass(frozen=True)
class Stream:
    """One split's encoded images: how many, and a function that gives them from the first on (read twice)."""

    count: int
    read: Callable[[], Iterator[Encoded]]


@dataclass(frozen=True)
class Form:
    """What every decoded image becomes: pixels and channels; `resize` None: it has that size already."""

    height: int
    width: int
    channels: int
    resize: str | None = None


def decode_streams(
    streams: Mapping[str, Stream], size: int | None, resize: str | None, console: Console, allocate: Allocate
) -> tuple[dict[str, Images], Photos | None]:
    """Decode every split to uint8 [N, H, W, C]; with `resize: photo` also the whole training images.

    Raises:
        RecipeError: Several sizes and no `size`.
        IntegrityError: A corrupt image, or one so large that it must be a decompression bomb.
    """
    for split, stream in streams.items():
        if not stream.count:
            raise RecipeError("data.use", f"{split} has no images", "at least one image in each split")
    form, sides = _common_form(streams, size, resize)
    whole = photos.room(sides, form.height, form.channels, allocate) if form.resize == "photo" else None
    arrays: dict[str, Images] = {}
    # The cores that this process may use: a container or taskset leaves fewer than the machine has.
    cores = usable_cores() or 1
    with ThreadPoolExecutor(cores) as pool:
        for split, stream in streams.items():
            array = allocate(split, (stream.count, form.height, form.width, form.channels))
            step = max(1, min(CHUNK, CHUNK_BYTES // (form.height * form.width * form.channels)))
            with console.task(f"decode {split}", stream.count, "images") as task:
                items, start = enumerate(stream.read()), 0
                decode = partial(_decode_chunk, form=form, whole=whole if split == "train" else None)
                while wave := list(islice(items, step * 8)):
                    chunks = [wave[i : i + step] for i in range(0, len(wave), step)]
                    for block in pool.map(decode, chunks):
                        array[start : start + len(block)] = block
                        start += len(block)
                        task.advance(len(block))
            arrays[split] = array
    return arrays, whole


def to_array(blob: bytes, where: str, form: Form, whole: Images | None = None) -> Images:
    """One encoded image -> uint8 [H, W, C] of the form; `whole` [h, w, C] is filled with it before it is cut to a square.

    Raises:
        IntegrityError: It is corrupt, or of another size than the form without a resize rule.
    """
    try:
        with Image.open(io.BytesIO(blob), formats=FORMATS) as image:
            converted = image.convert("L" if form.channels == 1 else "RGB")
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise _corrupt(where, error) from error
    if whole is not None:
        converted = photos.whole(converted, form.height)
        _check_size(where, converted, whole.shape[1], whole.shape[0])
        whole[:] = np.asarray(converted).reshape(whole.shape)
    if form.resize is not None:
        converted = _resized(converted, form)
    _check_size(where, converted, form.width, form.height)
    return np.asarray(converted, dtype=np.uint8).reshape(form.height, form.width, form.channels)


def resize_all(images: Images, size: int | None, resize: str | None) -> Images:
    """Bring decoded images [N, H, W, C] to `size`; unchanged when None, or equal and the rule is not `photo`."""
    if size is None or (images.shape[1:3] == (size, size) and resize != "photo"):
        return images
    form = Form(size, size, images.shape[3], resize or "fit-crop")
    flat = images[..., 0] if form.channels == 1 else images
    resized = [np.asarray(_resized(Image.fromarray(image), form)) for image in flat]
    return np.stack(resized).reshape(len(images), size, size, form.channels)


def place_arrays(
    splits: Mapping[str, tuple[Images, Labels]], size: int | None, resize: str | None, allocate: Allocate
) -> tuple[dict[str, tuple[Images, Labels]], Photos | None]:
    """What `decode_streams` gives, from images that are arrays of one size already."""
    whole = None
    if size is not None and resize == "photo":
        source = splits["train"][0]
        whole = photos.room([source.shape[2:0:-1]] * len(source), size, source.shape[3], allocate)
        for row, image in enumerate(source[..., 0] if source.shape[3] == 1 else source):
            whole[row][:] = np.asarray(photos.whole(Image.fromarray(image), size)).reshape(whole[row].shape)
    placed = {}
    for split, (images, labels) in splits.items():
        resized = resize_all(images, size, resize)
        array = allocate(split, resized.shape)
        array[:] = resized
        placed[split] = (array, labels)
    return placed, whole


def probe(blob: bytes, where: str) -> Form:
    """Size and channels of an encoded image, from its header.

    Raises:
        IntegrityError: No image, a decompression bomb, or more than 8 bits a channel.
    """
    try:
        with Image.open(io.BytesIO(blob), formats=FORMATS) as image:
            (width, height), mode = image.size, image.mode
    except (*DAMAGED, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _corrupt(where, error) from error
    if mode not in GREY_MODES + COLOUR_MODES:
        raise IntegrityError(where, f"pixel format {mode!r}", "8 bits a channel, grey or colour")
    return Form(height, width, 1 if mode in GREY_MODES else 3)


def _decode_chunk(chunk: Sequence[tuple[int, Encoded]], form: Form, whole: Photos | None) -> list[Images]:
    return [to_array(blob, where, form, None if whole is None else whole[row]) for row, (where, blob) in chunk]


def _common_form(
    streams: Mapping[str, Stream], size: int | None, resize: str | None
) -> tuple[Form, list[tuple[int, int]]]:
    """The form of all, and (width, height) of each training image where the rule is `photo`."""
    seen: dict[tuple[int, int], str] = {}
    sides: list[tuple[int, int]] = []
    channels = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for split, stream in streams.items():
            for where, blob in stream.read():
                form = probe(blob, where)
                channels = max(channels, form.channels)
                seen.setdefault((form.width, form.height), where)
                if split == "train" and resize == "photo":
                    sides.append((form.width, form.height))
    if size is not None:
        return Form(size, size, channels, resize or "fit-crop"), sides
    if len(seen) != 1:
        shown = "; ".join(f"{width}x{height} ({where})" for (width, height), where in islice(seen.items(), 3))
        raise RecipeError("data.size", f"images of {len(seen)} sizes: {shown}", "one size", "data: {size: 32, ...}")
    ((width, height),) = seen
    return Form(height, width, channels), sides


def _check_size(where: str, image: Image.Image, width: int, height: int) -> None:
    if image.size != (width, height):
        raise IntegrityError(where, f"{image.size} pixels", f"({width}, {height})")


def _resized(image: Image.Image, form: Form) -> Image.Image:
    if form.resize == "photo":
        return photos.square(image, form.height)
    width, height = image.size
    target = (form.width, form.height)
    if image.size == target:
        return image
    if form.resize == "squash":
        return image.resize(target, Image.Resampling.BILINEAR)
    scale = max(form.width / width, form.height / height)
    inner = (form.width / scale, form.height / scale)  # the centre part that the output shows, in source pixels
    left, top = (width - inner[0]) / 2, (height - inner[1]) / 2
    box = (left, top, left + inner[0], top + inner[1])
    return image.resize(target, Image.Resampling.BILINEAR, box=box)


def _corrupt(where: str, error: BaseException) -> IntegrityError:
    kind = "image" if isinstance(error, DAMAGED) else "decompression bomb"
    return IntegrityError(where, f"corrupt {kind}: {error}", "an image of " + ", ".join(FORMATS))
