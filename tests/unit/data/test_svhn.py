from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from made_up import Array, encode, noise, parquet_folder, write_parquet
from scipy.io import savemat

from edgekd.console import Console
from edgekd.data import matlab
from edgekd.data.base import Decoded
from edgekd.data.matlab import read_digits
from edgekd.data.svhn import CLASSES, SVHN
from edgekd.errors import IntegrityError, RecipeError

TRAIN, TEST = noise(12), noise(4, seed=1)
FILES = ("train_32x32.mat", "test_32x32.mat")


def write_mat(file: Path, images: Array, digits: object = None, packed: bool = True) -> Path:
    """As SVHN ships it: images along the last axis, digits 1 to 10 as a column."""
    given = np.arange(len(images)) % 10 + 1 if digits is None else np.asarray(digits)
    file.parent.mkdir(parents=True, exist_ok=True)
    column = given.reshape(-1, 1) if given.dtype.kind == "f" else given.astype(np.uint8).reshape(-1, 1)
    savemat(file, {"X": images.transpose(1, 2, 3, 0), "y": column}, do_compression=packed)
    return file


def write(folder: Path) -> Path:
    write_mat(folder / FILES[0], TRAIN)
    write_mat(folder / FILES[1], TEST)
    return folder


def decode(root: Path, size: int | None = None) -> Decoded:
    return SVHN().decode(SVHN().locate([root]), size, None, Console(quiet=True))


@pytest.mark.parametrize("place", ["svhn", "SVHN", "data/svhn"])
def test_torchvision_layout(tmp_path: Path, place: str) -> None:
    write(tmp_path / place)
    data = decode(tmp_path)
    assert data.layout == "matlab"
    assert data.classes == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert np.array_equal(data.splits["train"][0], TRAIN)
    assert np.array_equal(data.splits["test"][0], TEST)
    assert data.splits["train"][1].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]  # 10 is the digit 0
    assert decode(tmp_path, size=8).splits["test"][0].shape == (4, 8, 8, 3)


def test_digits_are_never_mirrored() -> None:
    assert SVHN.augment == ("crop4",)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", [np.uint8, np.float64])
def test_every_way_of_writing_the_numbers(tmp_path: Path, packed: bool, kind: type) -> None:
    file = write_mat(tmp_path / "a.mat", TEST, np.array([10, 1, 9, 5], dtype=kind), packed)
    images, labels = read_digits(file)
    assert np.array_equal(images, TEST)
    assert labels.tolist() == [0, 1, 9, 5]
    assert labels.dtype == np.int64


def test_hugging_face_layout_leaves_the_extra_images_and_the_whole_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "svhn"
    parquet_folder(folder / "cropped_digits", TRAIN, TEST, classes=CLASSES, column="image")
    blobs = [encode(image) for image in noise(2, seed=3)]
    write_parquet(folder / "cropped_digits" / "extra-00000-of-00001.parquet", blobs, [0, 1], CLASSES, "image")
    write_parquet(folder / "full_numbers" / "train-00000-of-00001.parquet", blobs, [0, 1], CLASSES, "image")
    data = decode(tmp_path)
    assert np.array_equal(data.splits["train"][0], TRAIN)
    assert set(data.splits) == {"train", "test"}


def test_both_layouts_are_compared(tmp_path: Path) -> None:
    folder = write(tmp_path / "svhn")
    train, test = [encode(image) for image in TRAIN], [encode(image) for image in TEST]
    write_parquet(folder / "train-00000-of-00001.parquet", train, [*range(1, 10), 0, 1, 2], CLASSES)
    write_parquet(folder / "test-00000-of-00001.parquet", test, [1, 2, 3, 4], CLASSES)
    assert decode(tmp_path).layout == "parquet"
    write_parquet(folder / "test-00000-of-00001.parquet", test, [1, 2, 3, 5], CLASSES)
    with pytest.raises(RecipeError, match="two different svhn"):
        decode(tmp_path)


def test_missing_data_is_listed(tmp_path: Path) -> None:
    (tmp_path / "svhn").mkdir()
    with pytest.raises(RecipeError, match=r"train_32x32\.mat and test_32x32\.mat"):
        decode(tmp_path)


@pytest.mark.parametrize("digits", [[1, 2, 0, 4], [1, 2, 3, 11], [1.0, 2.0, 2.5, 4.0], [1.0, 2.0, float("nan"), 4.0]])
def test_a_wrong_label_names_its_row(tmp_path: Path, digits: list[float]) -> None:
    file = write_mat(tmp_path / "a.mat", TEST, np.array(digits))
    with pytest.raises(IntegrityError, match=r"a\.mat, row [23]: label"):
        read_digits(file)


@pytest.mark.parametrize(
    "variables",
    [
        {"X": TEST.transpose(1, 2, 3, 0)},
        {"X": TEST.transpose(1, 2, 3, 0), "y": np.ones((3, 1), np.uint8)},
        {"X": TEST, "y": np.ones((4, 1), np.uint8)},
        {"X": TEST.transpose(1, 2, 3, 0).astype(np.float64), "y": np.ones((4, 1), np.uint8)},
        {"X": "text", "y": {"a": 1}},
        {"X": np.empty((32, 32, 3, 0), np.uint8), "y": np.empty((0, 1), np.uint8)},
    ],
)
def test_other_contents_are_refused(tmp_path: Path, variables: dict[str, object]) -> None:
    savemat(tmp_path / "a.mat", variables)
    with pytest.raises(IntegrityError, match=r"a\.mat"):
        read_digits(tmp_path / "a.mat")


def test_a_decompression_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matlab, "MOST_BYTES", 1 << 20)
    packed = zlib.compress(struct.pack("<II", 14, 1 << 24) + bytes(1 << 24))
    header = write_mat(tmp_path / "a.mat", TEST).read_bytes()[:128]
    (tmp_path / "a.mat").write_bytes(header + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(IntegrityError, match="unpacks to more than"):
        read_digits(tmp_path / "a.mat")


def test_damaged_bytes_end_in_a_clear_error(tmp_path: Path) -> None:
    """600 files cut short or with bytes changed: each is read, or refused by name (scipy's reader ends the process)."""
    wholes = [write_mat(tmp_path / "a.mat", TEST[:2], packed=packed).read_bytes() for packed in (True, False)]
    choose, refused = random.Random(0), 0
    for number in range(600):
        damaged = bytearray(wholes[number % 2])
        if choose.random() < 0.3:
            del damaged[choose.randrange(len(damaged)) :]
        for _ in range(choose.choice([1, 2, 8])):
            if damaged:
                damaged[choose.randrange(min(len(damaged), 400))] = choose.randrange(256)
        (tmp_path / "a.mat").write_bytes(damaged)
        try:
            read_digits(tmp_path / "a.mat")
        except IntegrityError as error:
            assert "a.mat" in error.where
            refused += 1
    assert refused > 300
