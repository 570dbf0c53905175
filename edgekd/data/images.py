"""Encoded images -> uint8 arrays of one size and one number of channels, checked image by image.

Rules: grey (modes 1, L, LA) stays one channel when every image is grey, else all become RGB (grey repeated); alpha is
dropped; more than 8 bits a channel is refused; EXIF orientation is not applied (torchvision's ImageFolder does not either).
`fit-crop`: shorter side resized to `size`, centre crop; `squash`: both sides resized to `size`; Pillow's antialiased bilinear.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from edgekd.console import Console
from edgekd.data.base import Allocate, Images
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
) -> dict[str, Images]:
    """Decode every split to uint8 [N, H, W, C].

    Raises:
        RecipeError: Several sizes and no `size`.
        IntegrityError: A corrupt image, or one so large that it must be a decompression bomb.
    """
    for split, stream in streams.items():
        if not stream.count:
            raise RecipeError("data.use", f"{split} has no images", "at least one image in each split")
    form = _common_form(streams, size, resize)
    arrays: dict[str, Images] = {}
    # The cores that this process may use: a container or taskset leaves fewer than the machine has.
    cores = usable_cores() or 1
    with ThreadPoolExecutor(cores) as pool:
        for split, stream in streams.items():
            array = allocate(split, (stream.count, form.height, form.width, form.channels))
            step = max(1, min(CHUNK, CHUNK_BYTES // (form.height * form.width * form.channels)))
            with console.task(f"decode {split}", stream.count, "images") as task:
                items, start = stream.read(), 0
                while wave := list(islice(items, step * 8)):
                    chunks = [wave[i : i + step] for i in range(0, len(wave), step)]
                    for block in pool.map(lambda chunk: [to_array(blob, at, form) for at, blob in chunk], chunks):
                        array[start : start + len(block)] = block
                        start += len(block)
                        task.advance(len(block))
            arrays[split] = array
    return arrays


def to_array(blob: bytes, where: str, form: Form) -> Images:
    """One encoded image -> uint8 [H, W, C] of the form.

    Raises:
        IntegrityError: It is corrupt, or of another size than the form without a resize rule.
    """
    try:
        with Image.open(io.BytesIO(blob), formats=FORMATS) as image:
            converted = image.convert("L" if form.channels == 1 else "RGB")
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise _corrupt(where, error) from error
    if form.resize is not None:
        converted = _resized(converted, form)
    if converted.size != (form.width, form.height):
        raise IntegrityError(where, f"{converted.size} pixels", f"({form.width}, {form.height})")
    return np.asarray(converted, dtype=np.uint8).reshape(form.height, form.width, form.channels)


def resize_all(images: Images, size: int | None, resize: str | None) -> Images:
    """Bring decoded images [N, H, W, C] to `size`; unchanged when None or equal."""
    if size is None or images.shape[1:3] == (size, size):
        return images
    form = Form(size, size, images.shape[3], resize or "fit-crop")
    flat = images[..., 0] if form.channels == 1 else images
    resized = [np.asarray(_resized(Image.fromarray(image), form)) for image in flat]
    return np.stack(resized).reshape(len(images), size, size, form.channels)


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


def _common_form(streams: Mapping[str, Stream], size: int | None, resize: str | None) -> Form:
    seen: dict[tuple[int, int], str] = {}
    channels = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for stream in streams.values():
            for where, blob in stream.read():
                form = probe(blob, where)
                channels = max(channels, form.channels)
                seen.setdefault((form.width, form.height), where)
    if size is not None:
        return Form(size, size, channels, resize or "fit-crop")
    if len(seen) != 1:
        shown = "; ".join(f"{width}x{height} ({where})" for (width, height), where in islice(seen.items(), 3))
        raise RecipeError("data.size", f"images of {len(seen)} sizes: {shown}", "one size", "data: {size: 32, ...}")
    ((width, height),) = seen
    return Form(height, width, channels)


def _resized(image: Image.Image, form: Form) -> Image.Image:
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
