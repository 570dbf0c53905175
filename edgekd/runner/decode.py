"""Encoded images -> uint8 pixels: PNG, PPM, PGM, BMP and NPY by ourselves; JPEG and the rest by Pillow or OpenCV where they are.

As where the data set was decoded: alpha is dropped, EXIF orientation is not applied, grey from colours is ITU-R 601's luma.
"""

from __future__ import annotations

import importlib
import io
import struct
import tokenize
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Sequence

import numpy as np

from edgekd.runner import png
from edgekd.runner.failure import INTEGRITY, MISSING, USAGE, RunnerError

if TYPE_CHECKING:
    import numpy.typing as npt

    Image = npt.NDArray[np.uint8]

SUFFIXES = (".png", ".ppm", ".pgm", ".bmp", ".npy", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
NATIVE = "PNG, PPM, PGM, BMP or NPY"
MOST_PIXELS = 178_956_970  # 512 MiB of RGB: what is larger is a mistake or a bomb
MOST_SIDE = 1 << 16  # beyond JPEG's: a strip a pixel wide would be resized through gigabytes
LUMA = (19595, 38470, 7471)  # 0.299, 0.587, 0.114 of 65536
MASKS = (0xFF0000, 0xFF00, 0xFF)  # of a BMP's red, green and blue
DAMAGED = (ValueError, IndexError, KeyError, EOFError, OverflowError, struct.error, zlib.error)
DAMAGED_NPY = (SyntaxError, TypeError, tokenize.TokenError)  # what older NumPy's reading of a header lets through


def files(paths: Sequence[Path]) -> List[Path]:
    """The images among files and folders, a folder's by name.

    Raises:
        RunnerError: 2: no such path, or a folder without an image.
    """
    found: List[Path] = []
    for path in paths:
        below = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not path.exists() or (path.is_dir() and not below):
            what = "holds no image" if path.is_dir() else "no such file or folder"
            raise RunnerError(USAGE, str(path), what, "an image or a folder of images: " + ", ".join(SUFFIXES))
        found += below if path.is_dir() else [path]
    return found


def decode(blob: bytes, where: str, channels: int) -> Image:
    """An image file's bytes -> uint8 [H, W, channels], channels 1 or 3.

    Raises:
        RunnerError: 5: a format that needs Pillow or OpenCV; 6: damaged, too large, or of more than 8 bits a channel.
    """
    try:
        if blob.startswith(png.MAGIC):
            return colours(png.decode(blob, MOST_PIXELS, MOST_SIDE), channels)
        if blob[:2] in (b"P2", b"P3", b"P5", b"P6"):
            return colours(_pnm(blob), channels)
        if blob.startswith(b"BM"):
            return colours(_bmp(blob), channels)
        if blob.startswith(b"\x93NUMPY"):
            return colours(_npy(blob), channels)
    except DAMAGED as error:
        found = "cannot be decoded: {}".format(error)
        raise RunnerError(INTEGRITY, where, found, "8 bits a channel: " + NATIVE, "convert it to PNG") from error
    return _borrowed(blob, where, channels)


def too_large(width: int, height: int) -> bool:
    """Whether an image of so many pixels is a mistake or a bomb."""
    return width * height > MOST_PIXELS or max(width, height) > MOST_SIDE


def colours(image: Image, channels: int) -> Image:
    """[H, W, 1 or 3] -> [H, W, channels]: grey repeated, or colours weighed to grey."""
    if image.shape[2] == channels:
        return np.ascontiguousarray(image)
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    return ((image.astype(np.int32) @ np.array(LUMA, np.int32) + 0x8000) >> 16).astype(np.uint8)[..., None]


def _pnm(blob: bytes) -> Image:
    """PGM and PPM, as text or bytes, to 255."""
    words: List[bytes] = []
    place = 0
    while len(words) < 4:
        end = place
        while end < len(blob) and not blob[end : end + 1].isspace() and blob[end : end + 1] != b"#":
            end += 1
        words += [blob[place:end]] if end > place else []
        if blob[end : end + 1] == b"#":
            place = blob.index(b"\n", end)
            continue
        place = end + 1
        if place > len(blob):
            raise ValueError("ends in its header")
    width, height, most = (int(word) for word in words[1:])
    kind, channels = words[0], 3 if words[0] in (b"P3", b"P6") else 1
    if not 0 < most < 256 or width < 1 or height < 1 or too_large(width, height):
        raise ValueError("{} x {} pixels up to {}: expected at most 255".format(width, height, most))
    count = width * height * channels
    values = np.array(blob[place:].split(None, count)[:count], np.int64) if kind in (b"P2", b"P3") else None
    samples = np.frombuffer(blob, np.uint8, count, place) if values is None else values
    if len(samples) < count or samples.max() > most or samples.min() < 0:
        raise ValueError("{} of {} samples up to {}".format(len(samples), count, most))
    scaled = samples if most == 255 else np.rint(samples / most * 255)
    return scaled.astype(np.uint8).reshape(height, width, channels)


def _bmp(blob: bytes) -> Image:
    """24 or 32 bits a pixel, or 8 and a palette (as grey images are written), not packed."""
    start, size, width, height, _, bits, packing = struct.unpack_from("<IIiiHHI", blob, 10)
    masks = struct.unpack_from("<III", blob, 54) if packing == 3 else MASKS
    if size < 40 or bits not in (8, 24, 32) or packing not in (0, 3) or masks != MASKS or (bits, packing) == (8, 3):
        raise ValueError("BMP of {} bits, packing {}: expected 8, 24 or 32 bits, not packed".format(bits, packing))
    if width < 1 or height == 0 or too_large(width, abs(height)):
        raise ValueError("{} x {} pixels".format(width, height))
    line = (width * bits // 8 + 3) // 4 * 4
    rows = np.frombuffer(blob, np.uint8, line * abs(height), start).reshape(abs(height), line)
    pixels = rows[:, : width * bits // 8].reshape(abs(height), width, bits // 8)[..., 2::-1]
    if bits == 8:
        (used,) = struct.unpack_from("<I", blob, 46)
        pixels = np.frombuffer(blob, np.uint8, 4 * (used or 256), 14 + size).reshape(-1, 4)[pixels[..., 0], 2::-1]
    return pixels[::-1] if height > 0 else pixels


def _npy(blob: bytes) -> Image:
    try:
        values = np.load(io.BytesIO(blob), allow_pickle=False)
    except DAMAGED_NPY as error:
        raise ValueError(str(error)) from error
    values = values[..., None] if values.ndim == 2 else values
    if values.dtype != np.uint8 or values.ndim != 3 or values.shape[2] not in (1, 3) or 0 in values.shape:
        raise ValueError("{} {}: expected uint8 [H, W], [H, W, 1] or [H, W, 3]".format(values.dtype, values.shape))
    return np.asarray(values)


def _borrowed(blob: bytes, where: str, channels: int) -> Image:
    """By Pillow, else by OpenCV."""
    for name, decoder in (("PIL.Image", _pillow), ("cv2", _opencv)):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        return decoder(module, blob, where, channels)
    raise RunnerError(MISSING, where, "not " + NATIVE, "Pillow or OpenCV for other formats", "pip install pillow")


def _pillow(module: Any, blob: bytes, where: str, channels: int) -> Image:
    try:
        with module.open(io.BytesIO(blob), formats=("JPEG", "WEBP", "TIFF", "GIF")) as image:
            if image.mode.startswith(("I", "F")) or too_large(image.width, image.height):
                raise ValueError("pixel format {}, {} pixels".format(image.mode, image.size))
            converted = image.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, TypeError, module.DecompressionBombError, *DAMAGED) as error:
        raise RunnerError(INTEGRITY, where, "cannot be decoded: {}".format(error), "an image of 8 bits") from error
    return np.asarray(converted, dtype=np.uint8).reshape(converted.height, converted.width, channels)


def _opencv(module: Any, blob: bytes, where: str, channels: int) -> Image:
    flags = module.IMREAD_COLOR | module.IMREAD_IGNORE_ORIENTATION
    try:
        image = module.imdecode(np.frombuffer(blob, np.uint8), flags)
    except module.error as error:
        raise RunnerError(INTEGRITY, where, "cannot be decoded: {}".format(error), "an image of 8 bits") from error
    if image is None:
        raise RunnerError(INTEGRITY, where, "cannot be decoded", "an image")
    return colours(np.asarray(image)[..., ::-1], channels)
