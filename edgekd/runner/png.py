"""PNG on the standard library's zlib: all colour types, 1 to 16 bits, interlaced or not.

Source: W3C, Portable Network Graphics, second edition: 5 chunks, 8.2 Adam7, 9 filtering.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict, List, Tuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

MAGIC = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type: grey, RGB, palette, grey with alpha, RGB with alpha
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# Adam7: first column, first row, step of columns, step of rows, of each of the seven small images.
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
WHOLE = ((0, 0, 1, 1),)


@dataclass(frozen=True)
class Header:
    """IHDR: size in pixels, bits a sample, colour type, whether interlaced."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool

    @property
    def channels(self) -> int:
        """Samples a pixel."""
        return CHANNELS[self.colour]

    def row_bytes(self, width: int) -> int:
        """Bytes of a row of so many pixels, without its filter's."""
        return (width * self.channels * self.depth + 7) // 8


def decode(blob: bytes, most_pixels: int, most_side: int) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, C], C 1 (grey) or 3; alpha is dropped, of 16 bits a sample the upper 8 are kept.

    Raises:
        ValueError: Damaged, larger than `most_pixels` or `most_side`, or grey of 16 bits, of which the range is anybody's guess.
    """
    chunks = _chunks(blob)
    header = _header(chunks)
    if header.width * header.height > most_pixels or max(header.width, header.height) > most_side:
        found, most = (
            "{} x {} pixels".format(header.width, header.height),
            "{}, or a side of {}".format(most_pixels, most_side),
        )
        raise ValueError("{}: more than {}".format(found, most))
    if header.depth == 16 and header.colour == 0:
        raise ValueError("grey of 16 bits: expected 8 bits a channel")
    spots = PASSES if header.interlaced else WHOLE
    sizes = [_pass_size(header, spot) for spot in spots]
    length = sum(h * (1 + header.row_bytes(w)) for w, h in sizes if w and h)
    raw = zlib.decompressobj().decompress(b"".join(chunks.get("IDAT", [])), length)
    if len(raw) < length:
        raise ValueError("{} of {} bytes of pixels".format(len(raw), length))
    samples = np.zeros((header.height, header.width, header.channels), np.uint8)
    place = 0
    for (x, y, dx, dy), (width, height) in zip(spots, sizes):
        if width and height:
            end = place + height * (1 + header.row_bytes(width))
            samples[y::dy, x::dx] = _pixels(raw[place:end], header, width, height)
            place = end
    return _colours(samples, header, chunks)


def _chunks(blob: bytes) -> Dict[str, List[bytes]]:
    found: Dict[str, List[bytes]] = {}
    place = len(MAGIC)
    while "IEND" not in found:
        if place + 12 > len(blob):
            raise ValueError("ends before its IEND chunk")
        length, name = struct.unpack_from(">I4s", blob, place)
        content = blob[place + 8 : place + 8 + length]
        check = blob[place + 8 + length : place + 12 + length]
        if len(check) < 4 or zlib.crc32(name + content) != int.from_bytes(check, "big"):
            raise ValueError("chunk {!r} is damaged".format(name))
        found.setdefault(name.decode("latin-1"), []).append(content)
        place += 12 + length
    return found


def _header(chunks: Dict[str, List[bytes]]) -> Header:
    if next(iter(chunks)) != "IHDR" or len(chunks["IHDR"][0]) != 13:
        raise ValueError("no IHDR chunk")
    width, height, depth, colour, packing, filtering, interlace = struct.unpack(">IIBBBBB", chunks["IHDR"][0])
    right = depth in DEPTHS.get(colour, ()) and packing == filtering == 0 and interlace < 2 and width and height
    if not right:
        raise ValueError("an IHDR chunk that no PNG has")
    return Header(width, height, depth, colour, bool(interlace))


def _pass_size(header: Header, spot: Tuple[int, int, int, int]) -> Tuple[int, int]:
    x, y, dx, dy = spot
    return max(0, (header.width - x + dx - 1) // dx), max(0, (header.height - y + dy - 1) // dy)


def _pixels(raw: bytes, header: Header, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Samples [height, width, channels] of one pass, scaled to 8 bits (palette: numbers)."""
    lines = np.frombuffer(raw, np.uint8).reshape(height, -1)
    step = max(1, header.channels * header.depth // 8)
    rows = _unfilter(lines[:, 0], lines[:, 1:].reshape(height, -1, step)).reshape(height, -1)
    if header.depth == 16:
        rows = rows[:, ::2]
    elif header.depth < 8:
        bits = np.unpackbits(rows, axis=1).reshape(height, -1, header.depth)
        weights = (1 << np.arange(header.depth)[::-1]).astype(np.uint8)
        rows = (bits * weights).sum(axis=2, dtype=np.uint8)[:, :width]
        if header.colour == 0:
            rows = rows * np.uint8(255 // (2**header.depth - 1))
    return rows.reshape(height, width, header.channels)


def _unfilter(filters: npt.NDArray[np.uint8], rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Undo the rows' filters; rows [H, W, bytes a pixel]. A pixel needs those left, above and above left of it: all pixels of an
    anti-diagonal are done at once.
    """
    if filters.max() > 4:
        raise ValueError("filter {}".format(filters.max()))
    if not filters.any():
        return rows
    height, width, step = rows.shape
    framed = np.zeros((height + 1, width + 1, step), np.int16)
    framed[1:, 1:] = rows
    flat, line = framed.reshape(-1, step), width + 1
    kinds = filters.astype(np.int16)[:, None]
    for diagonal in range(width + height - 1):
        top = max(0, diagonal - width + 1)
        count = min(height - 1, diagonal) - top + 1
        here = (
            (top + 1) * line + diagonal - top + 1
        )  # each next pixel is a row down and one to the left: `width` further on
        spots = [
            slice(start, start + (count - 1) * width + 1, width)
            for start in (here, here - 1, here - line, here - line - 1)
        ]
        left, above, corner = (flat[spot] for spot in spots[1:])
        flat[spots[0]] = (flat[spots[0]] + _predict(kinds[top : top + count], left, above, corner)) & 255
    return framed[1:, 1:].astype(np.uint8)


def _predict(
    kinds: npt.NDArray[np.int16],
    left: npt.NDArray[np.int16],
    above: npt.NDArray[np.int16],
    corner: npt.NDArray[np.int16],
) -> npt.NDArray[np.int16]:
    """What each row's filter foretells: 0, the left, the upper, their mean, or Paeth's choice."""
    by_left, by_above = np.abs(above - corner), np.abs(left - corner)
    by_corner = np.abs(left + above - 2 * corner)
    upper = np.where(by_above <= by_corner, above, corner)
    paeth = np.where((by_left <= by_above) & (by_left <= by_corner), left, upper)
    return np.choose(np.broadcast_to(kinds, left.shape), [np.zeros_like(left), left, above, (left + above) >> 1, paeth])


def _colours(samples: npt.NDArray[np.uint8], header: Header, chunks: Dict[str, List[bytes]]) -> npt.NDArray[np.uint8]:
    if header.colour == 3:
        table = np.frombuffer(chunks.get("PLTE", [b""])[0], np.uint8)
        if len(table) == 0 or len(table) % 3:
            raise ValueError("no palette")
        full = np.zeros((256, 3), np.uint8)  # a number beyond the palette is black
        full[: len(table) // 3] = table.reshape(-1, 3)[:256]
        return full[samples[..., 0]]
    return samples[..., : 1 if header.colour in (0, 4) else 3]
