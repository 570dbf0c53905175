"""The runner's own decoders and its resizing against Pillow, which the data sets were decoded with."""

import builtins
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from edgekd.data.images import Form, to_array
from edgekd.runner import decode, png, resize
from edgekd.runner.failure import RunnerError

SIZES = [(1, 1), (1, 9), (9, 1), (7, 5), (61, 44), (44, 61)]
MODES = ("L", "RGB", "RGBA", "LA", "P", "1")


def picture(height, width, channels=3, seed=0):
    """Something with edges and gradients, so that every PNG filter is used."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 120 * np.sin(x / 7 + i) * np.cos(y / (5 + i)) for i in range(channels)]
    noise = np.random.default_rng(seed).normal(0, 4, (height, width, channels))
    return (np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8)


def image(height, width, mode):
    found = Image.fromarray(picture(height, width)).convert(mode)
    if mode in ("RGBA", "LA"):
        found.putalpha(Image.fromarray(picture(height, width, 1)[..., 0]))
    return found


def encoded(of, kind="PNG", **options):
    out = io.BytesIO()
    of.save(out, kind, **options)
    return out.getvalue()


def with_palette(of, used):
    """A BMP that says that its palette has so many colours."""
    blob = bytearray(encoded(of, "BMP"))
    blob[46:50] = struct.pack("<I", used)
    return bytes(blob)


def pillows(blob, channels):
    with Image.open(io.BytesIO(blob)) as opened:
        return to_array(blob, "x", Form(opened.height, opened.width, channels))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_png_is_pillows_to_the_byte(size, mode, channels):
    blob = encoded(image(*size, mode), optimize=True)
    np.testing.assert_array_equal(decode.decode(blob, "x", channels), pillows(blob, channels))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_png_with_a_small_palette(bits):
    blob = encoded(image(13, 21, "RGB").quantize(2**bits), bits=bits)
    assert png._header(png._chunks(blob)).depth == bits
    np.testing.assert_array_equal(decode.decode(blob, "x", 3), pillows(blob, 3))


def make_png(samples, colour, depth, interlaced=False, filters=(0, 1, 2, 3, 4)):
    """A PNG written by the specification, all filters in turn; samples [H, W, channels] of `depth` bits."""

    def lines(part):
        height, _, channels = part.shape
        if depth == 16:
            rows = part.astype(">u2").view(np.uint8).reshape(height, -1)
        elif depth == 8:
            rows = part.astype(np.uint8).reshape(height, -1)
        else:
            bits = np.unpackbits(part.astype(np.uint8)[..., None], axis=-1)[..., -depth:].reshape(height, -1)
            rows = np.packbits(bits, axis=1)
        step, above, out = max(1, channels * depth // 8), np.zeros(rows.shape[1], np.uint8), b""
        for number, row in enumerate(rows):
            kind = filters[number % len(filters)]
            left = np.concatenate((np.zeros(step, np.uint8), row))[: len(row)]
            corner = np.concatenate((np.zeros(step, np.uint8), above))[: len(row)]
            told = [foretell(kind, int(a), int(b), int(c)) for a, b, c in zip(left, above, corner, strict=True)]
            out += bytes([kind]) + (row - np.array(told, np.uint8)).tobytes()
            above = row
        return out

    parts = [samples[y::dy, x::dx] for x, y, dx, dy in png.PASSES] if interlaced else [samples]
    data = zlib.compress(b"".join(lines(part) for part in parts if part.size))
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return png.MAGIC + b"".join(chunk(*pair) for pair in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b"")))


def foretell(kind, a, b, c):
    """The specification's five predictors of one byte."""
    if kind == 4:
        p = a + b - c
        return min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
    return (0, a, b, (a + b) // 2)[kind]


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("colour", "depth"), [(0, 1), (0, 2), (0, 4), (0, 8), (2, 8), (2, 16), (4, 8), (4, 16), (6, 8), (6, 16)]
)
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (11, 13)])
def test_png_of_every_kind_and_filter(size, colour, depth, interlaced):
    samples = np.random.default_rng(depth).integers(0, 2**depth, (*size, png.CHANNELS[colour]))
    blob = make_png(samples, colour, depth, interlaced)
    channels = 1 if colour in (0, 4) else 3
    scale = 255 // (2**depth - 1) if depth < 8 else 1
    expected = (samples >> 8 if depth == 16 else samples * scale)[..., :channels]
    np.testing.assert_array_equal(decode.decode(blob, "x", channels), expected)
    np.testing.assert_array_equal(decode.decode(blob, "x", channels), pillows(blob, channels))


@pytest.mark.parametrize("kind", range(5))
def test_png_with_one_filter_throughout(kind):
    samples = picture(23, 17)
    blob = make_png(samples, 2, 8, filters=(kind,))
    np.testing.assert_array_equal(decode.decode(blob, "x", 3), samples)


def test_png_of_a_photo_is_whole():
    """Wide and tall at once: the anti-diagonals grow, stay and shrink."""
    samples = picture(301, 402)
    np.testing.assert_array_equal(decode.decode(encoded(Image.fromarray(samples)), "x", 3), samples)


GOOD = encoded(image(8, 8, "RGB"))


@pytest.mark.parametrize("end", [4, 12, 30, 45, len(GOOD) - 14, len(GOOD) - 1])
def test_a_png_cut_short_is_exit_6(end):
    with pytest.raises(RunnerError) as caught:
        decode.decode(GOOD[:8] + GOOD[8:end], "name.png", 3)
    assert (caught.value.exit_code, caught.value.where) == (6, "name.png")


@pytest.mark.parametrize("place", range(8, len(GOOD), 3))
def test_a_flipped_bit_in_a_png_is_exit_6(place):
    """Every chunk has its check sum."""
    blob = bytearray(GOOD)
    blob[place] ^= 4
    with pytest.raises(RunnerError) as caught:
        decode.decode(bytes(blob), "x", 3)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(
    ("blob", "words"),
    [
        (make_png(np.full((2, 2, 1), 700), 0, 16), "grey of 16 bits"),
        (make_png(np.zeros((2, 2, 3), np.uint8), 2, 8, filters=(0,)).replace(b"IEND", b"IENE"), "damaged"),
        (png.MAGIC + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)) + chunk(b"IEND", b""), "more than"),
        (png.MAGIC + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 3, 2, 0, 0, 0)) + chunk(b"IEND", b""), "no PNG has"),
        (png.MAGIC + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 0, 8, 2, 0, 0, 0)) + chunk(b"IEND", b""), "no PNG has"),
        (png.MAGIC + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 3, 0, 0, 0)) + chunk(b"IEND", b""), "0 of 20 bytes"),
        (b"P6 2 2 65535\n" + bytes(24), "at most 255"),
        (b"P6 2 2 255\n" + bytes(11), "buffer"),
        (b"P5 2", "header"),
        (encoded(image(4, 4, "1"), "BMP"), "BMP of 1 bits"),
        (with_palette(image(4, 4, "L"), 2), "out of bounds"),
        (encoded(image(4, 4, "RGB"), "BMP")[:60], "buffer"),
        (b"\x93NUMPY\x01\x00", "EOF"),
    ],
)  # fmt: skip
def test_what_is_damaged_or_not_known_is_exit_6_and_said(blob, words):
    with pytest.raises(RunnerError) as caught:
        decode.decode(blob, "x", 3)
    assert caught.value.exit_code == 6
    assert words.lower() in caught.value.found.lower()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("kind", "mode"), [("BMP", "RGB"), ("BMP", "RGBA"), ("BMP", "L"), ("BMP", "P"), ("PPM", "RGB"), ("PPM", "L")]
)
def test_bmp_and_ppm_are_pillows(kind, mode, channels):
    blob = encoded(image(17, 23, mode), kind)
    np.testing.assert_array_equal(decode.decode(blob, "x", channels), pillows(blob, channels))


def test_a_bmp_that_begins_at_its_top():
    blob = bytearray(encoded(image(5, 7, "RGB"), "BMP"))
    upright = decode.decode(bytes(blob), "x", 3)
    blob[22:26] = struct.pack("<i", -5)
    np.testing.assert_array_equal(decode.decode(bytes(blob), "x", 3), upright[::-1])


@pytest.mark.parametrize("text", [b"P2\n# by hand\n2 2 15\n0 5\n10 15\n", b"P2 2 2 15 0 5 10 15"])
def test_a_pgm_of_text_with_another_maximum(text):
    assert decode.decode(text, "x", 1)[..., 0].tolist() == [[0, 85], [170, 255]]
    np.testing.assert_array_equal(decode.decode(text, "x", 1), pillows(text, 1))


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
def test_npy(shape):
    values = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    out = io.BytesIO()
    np.save(out, values)
    found = decode.decode(out.getvalue(), "x", 3)
    np.testing.assert_array_equal(found, np.broadcast_to(values.reshape(4, 5, -1), (4, 5, 3)))


@pytest.mark.parametrize("values", [np.zeros((4, 5)), np.zeros((4, 5, 2), np.uint8), np.zeros((0, 5), np.uint8)])
def test_an_npy_of_something_else_is_exit_6(values):
    out = io.BytesIO()
    np.save(out, values)
    with pytest.raises(RunnerError, match="expected uint8"):
        decode.decode(out.getvalue(), "x", 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows_where_pillow_is(channels):
    blob = encoded(image(33, 20, "RGB"), "JPEG")
    np.testing.assert_array_equal(decode.decode(blob, "x", channels), pillows(blob, channels))


def test_jpeg_without_pillow_and_opencv_is_exit_5_with_the_line(monkeypatch):
    real = decode.importlib.import_module

    def missing(name):
        if name in ("PIL.Image", "cv2"):
            raise ModuleNotFoundError(name)
        return real(name)

    monkeypatch.setattr(decode.importlib, "import_module", missing)
    with pytest.raises(RunnerError) as caught:
        decode.decode(encoded(image(8, 8, "RGB"), "JPEG"), "a.jpg", 3)
    assert (caught.value.exit_code, caught.value.hint) == (5, "pip install pillow")


def test_a_jpeg_cut_short_is_exit_6():
    blob = encoded(image(40, 40, "RGB"), "JPEG")
    with pytest.raises(RunnerError) as caught:
        decode.decode(blob[: len(blob) // 2], "x", 3)
    assert caught.value.exit_code == 6


def test_png_needs_no_package(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest, **more):
        if name.split(".")[0] in ("PIL", "cv2"):
            raise ModuleNotFoundError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert decode.decode(GOOD, "x", 3).shape == (8, 8, 3)


@pytest.mark.parametrize("rule", ["fit-crop", "squash", "photo"])
@pytest.mark.parametrize("to", [8, 32, 40])
@pytest.mark.parametrize("size", [*SIZES, (32, 32), (100, 333), (300, 40)])
def test_resizing_is_the_hosts_but_for_the_order_of_passes(size, to, rule):
    """Pillow 13 does rows before columns for some sizes, which moves a rounding: by 1, never more."""
    blob = encoded(image(*size, "RGB"))
    found = resize.fit(decode.decode(blob, "x", 3), (to, to), rule).astype(int)
    expected = to_array(blob, "x", Form(to, to, 3, rule))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("to", [(61, 20), (61, 90), (20, 44), (90, 44)])
@pytest.mark.parametrize("shift", [0.0, 3.3])
def test_resizing_one_way_is_pillows_to_the_byte(to, shift):
    """Only one pass: no order, no tolerance."""
    pixels = picture(61, 44)
    box = (shift if to[0] == 61 else 0.0, shift if to[1] == 44 else 0.0, 44.0, 61.0)
    expected = np.asarray(Image.fromarray(pixels).resize(to[::-1], Image.Resampling.BILINEAR, box=box))
    np.testing.assert_array_equal(resize.resample(pixels, to, box), expected)


def test_a_folder_gives_its_images_by_name(tmp_path):
    for name in ("b.png", "a.JPG", "sub/c.npy", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in decode.files([tmp_path])] == ["a.JPG", "b.png", "c.npy"]


@pytest.mark.parametrize("name", ["nowhere.png", "empty"])
def test_no_image_is_exit_2(name, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunnerError) as caught:
        decode.files([tmp_path / name])
    assert caught.value.exit_code == 2
