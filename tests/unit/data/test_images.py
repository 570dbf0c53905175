from __future__ import annotations

import io

import numpy as np
import pytest
from made_up import encode, noise
from PIL import Image

from edgekd.console import Console
from edgekd.data.base import Images, in_memory
from edgekd.data.images import Form, Stream, decode_streams, probe, resize_all, to_array
from edgekd.errors import IntegrityError, RecipeError


def decode(blobs: list[bytes], size: int | None = None, resize: str | None = None) -> Images:
    stream = Stream(len(blobs), lambda: ((f"file, row {row}", blob) for row, blob in enumerate(blobs)))
    return decode_streams({"train": stream}, size, resize, Console(quiet=True), in_memory)[0]["train"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(8, 8), (5, 9)])
def test_lossless_images_come_back_as_they_were(channels: int, shape: tuple[int, int]) -> None:
    images = noise(300, *shape, channels)  # more than one chunk
    assert np.array_equal(decode([encode(image) for image in images]), images)


def test_grey_among_colour_is_repeated() -> None:
    colour, grey = noise(1)[0], noise(1, channels=1)[0]
    both = decode([encode(grey), encode(colour)])
    assert both.shape == (2, 32, 32, 3)
    assert np.array_equal(both[0], np.repeat(grey, 3, axis=2))
    assert np.array_equal(both[1], colour)


def test_alpha_is_dropped_and_palettes_become_colour() -> None:
    pixels = noise(1, 8, 8, 4)[0]
    assert np.array_equal(decode([encode(pixels)])[0], pixels[..., :3])
    buffer = io.BytesIO()
    Image.fromarray(noise(1, 8, 8)[0]).convert("P").save(buffer, "PNG")
    assert decode([buffer.getvalue()]).shape == (1, 8, 8, 3)


def test_mixed_sizes_name_both_and_the_key() -> None:
    blobs = [encode(noise(1, 8, 8)[0]), encode(noise(1, 9, 8)[0])]
    with pytest.raises(RecipeError) as caught:
        decode(blobs)
    assert caught.value.where == "data.size"
    assert "8x8 (file, row 0); 8x9 (file, row 1)" in caught.value.found
    assert decode(blobs, size=8).shape == (2, 8, 8, 3)


def test_fit_crop_keeps_the_centre_and_squash_keeps_everything() -> None:
    wide = np.zeros((8, 16, 3), dtype=np.uint8)
    wide[:, 4:12] = 200  # the centre square
    blob = [encode(wide)]
    assert (decode(blob, size=4, resize="fit-crop") > 150).all()
    assert np.array_equal(decode(blob, size=4), decode(blob, size=4, resize="fit-crop"))
    squashed = decode(blob, size=4, resize="squash")[0, 0, :, 0]
    assert squashed[0] < 60
    assert squashed[3] < 60
    assert squashed[1] > 120


def test_the_right_size_is_left_alone() -> None:
    images = noise(2, 8, 8)
    assert np.array_equal(decode([encode(image) for image in images], size=8, resize="squash"), images)
    assert resize_all(images, 8, None) is images
    assert resize_all(noise(2, 8, 8, 1), 4, None).shape == (2, 4, 4, 1)


@pytest.mark.parametrize("damage", ["truncated", "noise", "empty"])
def test_a_corrupt_image_is_named(damage: str) -> None:
    good = encode(noise(1)[0])
    bad = {"truncated": good[: len(good) // 2], "noise": b"\x89PNG not one", "empty": b""}[damage]
    with pytest.raises(IntegrityError, match=r"file, row 1: corrupt image"):
        decode([good, bad])


def test_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    blob = encode(np.zeros((100, 100, 3), dtype=np.uint8))
    for limit in (9_000, 4_000):  # Pillow warns above the limit and raises above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(IntegrityError, match=r"file, row 0: corrupt decompression bomb"):
            decode([blob])


def test_sixteen_bits_are_refused() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(buffer, "PNG")
    with pytest.raises(IntegrityError, match="8 bits a channel"):
        probe(buffer.getvalue(), "x")


def test_postscript_is_never_handed_on() -> None:
    with pytest.raises(IntegrityError):
        to_array(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "x", Form(8, 8, 3))


def test_an_empty_split_is_an_error() -> None:
    with pytest.raises(RecipeError, match="train has no images"):
        decode([])
