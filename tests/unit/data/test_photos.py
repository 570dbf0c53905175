"""`resize: photo`: the square against torchvision's own evaluation transform, and the store of whole photos."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import encode, noise
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize

from edgekd.console import Console
from edgekd.crops import Uncut
from edgekd.data.base import Photos, in_memory
from edgekd.data.images import Form, Stream, decode_streams, place_arrays, to_array
from edgekd.data.photos import shorter, square, whole
from edgekd.data.roles import split
from edgekd.errors import IntegrityError, RecipeError
from edgekd.params import DataParams, Roles
from edgekd.stages import data, evaluate
from edgekd.stages.base import RunContext, StageResult

SIZE = 14  # the shorter side of a whole photo is then 16
SIDES = ((40, 30), (30, 40), (16, 16), (16, 50), (9, 12), (14, 14), (200, 17), (17, 31))  # (width, height)


def photo(width: int, height: int, channels: int = 3) -> Image.Image:
    pixels = noise(1, height, width, channels, seed=width)[0]
    return Image.fromarray(pixels if channels == 3 else pixels[..., 0])


@pytest.mark.parametrize(("size", "side"), [(224, 256), (96, 110), (32, 37), (160, 183)])
def test_the_shorter_side(size: int, side: int) -> None:
    assert shorter(size) == side


@pytest.mark.parametrize("size", [14, 15, 32])
@pytest.mark.parametrize("sides", SIDES)
def test_the_square_is_torchvisions(size: int, sides: tuple[int, int]) -> None:
    image = photo(*sides)
    theirs = np.asarray(Compose([Resize(round(size * 256 / 224)), CenterCrop(size)])(image))
    reduced = max(sides) > 4 * min(sides) and min(sides) < shorter(size)
    if (
        not reduced
    ):  # else the ends of a strip are cut before it is enlarged, which moves nothing by more than a rounding
        assert np.array_equal(np.asarray(square(image, size)), theirs)
        blob = encode(np.asarray(image))
        assert np.array_equal(to_array(blob, "x", Form(size, size, 3, "photo")), theirs)
    assert np.asarray(square(image, size)).shape == theirs.shape
    assert np.array_equal(np.asarray(square(whole(image, size), size)), np.asarray(square(image, size)))


def test_a_whole_photo_keeps_its_aspect_and_is_never_enlarged() -> None:
    assert whole(photo(40, 30), SIZE).size == (21, 16)
    assert whole(photo(30, 40), SIZE).size == (16, 21)
    small = photo(9, 12)
    assert whole(small, SIZE) is small


def test_a_strip_is_not_blown_up() -> None:
    """20,000 x 1 pixels with the shorter side brought to 256 would be 3.9 GB."""
    assert square(Image.new("RGB", (20_000, 1)), 224).size == (224, 224)
    assert square(Image.new("L", (1, 20_000)), 224).size == (224, 224)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_store_holds_every_training_photo(channels: int) -> None:
    originals = [photo(*sides, channels) for sides in SIDES * 20]  # more than one chunk
    blobs = [encode(np.asarray(image).reshape(image.height, image.width, channels)) for image in originals]
    streams = {
        "train": Stream(len(blobs), lambda: ((f"row {row}", blob) for row, blob in enumerate(blobs))),
        "test": Stream(3, lambda: (("x", blob) for blob in blobs[:3])),
    }
    images, photos = decode_streams(streams, SIZE, "photo", Console(quiet=True), in_memory)
    assert photos is not None
    assert len(photos) == len(originals)
    assert images["train"].shape == (len(originals), SIZE, SIZE, channels)
    assert images["test"].shape == (3, SIZE, SIZE, channels)
    for row, image in enumerate(originals):
        kept = np.asarray(whole(image, SIZE))
        assert np.array_equal(photos[row], kept.reshape(*kept.shape[:2], channels))
        assert np.array_equal(images["train"][row].squeeze(), np.asarray(square(image, SIZE)))
    assert photos.pixels.size == sum(photos[row].size for row in range(len(photos)))  # no gap, no overlap
    assert np.array_equal(photos.only(np.array([5, 2]))[1], photos[2])


@pytest.mark.parametrize("rule", [None, "squash", "fit-crop"])
def test_other_rules_keep_no_photos(rule: str | None) -> None:
    stream = Stream(1, lambda: iter([("x", encode(noise(1)[0]))]))
    assert decode_streams({"train": stream}, SIZE, rule, Console(quiet=True), in_memory)[1] is None
    splits = {"train": (noise(2), np.zeros(2, np.int64))}
    assert place_arrays(splits, SIZE, rule, in_memory)[1] is None


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_of_one_size_are_photos_too(channels: int) -> None:
    arrays = noise(3, 20, 24, channels)
    splits = {name: (arrays, np.zeros(3, np.int64)) for name in ("train", "test")}
    placed, photos = place_arrays(splits, SIZE, "photo", in_memory)
    assert isinstance(photos, Photos)
    assert photos[2].shape == (16, 19, channels)
    assert placed["test"][0].shape == (3, SIZE, SIZE, channels)
    image = Image.fromarray(arrays[1] if channels == 3 else arrays[1, ..., 0])
    assert np.array_equal(placed["train"][0][1].squeeze(), np.asarray(square(image, SIZE)))


def test_a_header_that_tells_another_size_than_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IntegrityError, match="row 7"):
        to_array(encode(noise(1, 20, 20)[0]), "row 7", Form(14, 14, 3, "photo"), np.empty((16, 17, 3), np.uint8))


def write_folder(folder: Path) -> None:
    for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (folder / place).mkdir(parents=True)
        for row, (width, height) in enumerate(SIDES):
            buffer = io.BytesIO()
            Image.fromarray(noise(1, height, width, seed=hash_of(place, row))[0]).save(buffer, "PNG")
            (folder / place / f"{row}.png").write_bytes(buffer.getvalue())
    (folder / "train" / "dog" / "1.png").write_bytes((folder / "test" / "dog" / "3.png").read_bytes())


def hash_of(place: str, row: int) -> int:
    return sum(map(ord, place)) * 100 + row


def make(tmp_path: Path, **more: object) -> tuple[Path, StageResult]:
    out = tmp_path / f"out{time.monotonic_ns()}"
    out.mkdir()
    context = RunContext((tmp_path,), None, tmp_path / "resume", Console(quiet=True))
    params = DataParams(
        use="imagefolder", args={"path": "photos"}, duplicates="drop_train", **{"size": SIZE, "resize": "photo", **more}
    )
    located = data.locate(params, context.data_roots)
    data.check(located, context)
    return out, data.run(located, {}, out, context)


def test_the_artifact_of_photos_of_many_sizes(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos")
    (out, result), (again, _) = make(tmp_path), make(tmp_path)
    assert set(result.payload) == {path.name for path in out.iterdir()}
    assert {"photos_train.npy", "photos_train_index.npy"} <= set(result.payload)
    for name in result.payload:
        assert (out / name).read_bytes() == (again / name).read_bytes()
    assert json.loads((out / "data.json").read_text())["resize"] == {"size": SIZE, "rule": "photo"}
    arrays = split(out, Roles(val=3))
    assert arrays.photos is not None
    assert isinstance(arrays.photos.pixels, np.memmap)
    train = arrays.images("train")
    assert len(arrays.photos) == len(train) == 2 * len(SIDES) - 1 - 3  # one was in test too, three are held out
    for row in range(len(train)):  # a photo and its square stand in the same row, after dropping and holding out
        cut = np.asarray(square(Image.fromarray(np.asarray(arrays.photos[row])), SIZE))
        assert np.array_equal(cut, train[np.array([row])][0])


def test_training_cuts_from_whole_photos_where_it_can(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos")
    stored = evaluate.Data(split(make(tmp_path)[0], Roles(val=3)))
    cut = stored.training(("rrc", "flip"))
    assert isinstance(cut.images, Uncut)
    assert cut.images.shape == (len(cut.labels), SIZE, SIZE, 3)
    assert isinstance(stored.training(("crop4",)).images, torch.Tensor)
    squares = evaluate.Data(split(make(tmp_path, resize="squash")[0], Roles(val=3)))
    assert isinstance(squares.training(("rrc",)).images, torch.Tensor)  # crops of the square, the same tokens


def test_without_the_rule_there_is_no_store(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos")
    out, result = make(tmp_path, resize=None)
    assert not [name for name in result.payload if "photos" in name]
    assert split(out, Roles()).photos is None


def test_the_rule_needs_a_size(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos")
    with pytest.raises(RecipeError, match=r"data\.resize: 'photo' without a size"):
        make(tmp_path, size=None)
