from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_up import encode, noise, parquet_folder, write_parquet

from edgekd.console import Console
from edgekd.data.base import Decoded
from edgekd.data.parquet import ImageParquet
from edgekd.errors import IntegrityError, RecipeError


def decode(folder: Path, size: int | None = None) -> Decoded:
    source = ImageParquet(folder.name)
    return source.decode(source.locate([folder.parent]), size, None, Console(quiet=True))


@pytest.mark.parametrize("column", ["img", "image"])
def test_images_labels_and_class_names(tmp_path: Path, column: str) -> None:
    train, test = noise(7), noise(4, seed=1)
    data = decode(parquet_folder(tmp_path / "pets", train, test, column=column))
    assert data.classes == ("cat", "dog")
    assert np.array_equal(data.splits["train"][0], train)
    assert data.splits["train"][1].tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert np.array_equal(data.splits["test"][0], test)


def test_shards_in_order_and_splits_by_name(tmp_path: Path) -> None:
    images = noise(8)
    blobs = [encode(image) for image in images]
    write_parquet(tmp_path / "p" / "train-00001-of-00002.parquet", blobs[2:4], [1, 0])
    write_parquet(tmp_path / "p" / "train-00000-of-00002.parquet", blobs[:2], [0, 1])
    write_parquet(tmp_path / "p" / "validation.parquet", blobs[4:6], [0, 1])
    write_parquet(tmp_path / "p" / "test.parquet", blobs[6:], [0, 1])
    data = decode(tmp_path / "p")
    assert np.array_equal(data.splits["train"][0], images[:4])
    assert np.array_equal(data.splits["val"][0], images[4:6])
    (tmp_path / "p" / "test.parquet").unlink()
    alone = decode(tmp_path / "p")
    assert set(alone.splits) == {"train", "test"}
    assert "its val is the test split" in alone.split_rule


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    blobs = [encode(image) for image in noise(2)]
    write_parquet(tmp_path / "p" / "train-00000-of-00002.parquet", blobs, [0, 1])
    write_parquet(tmp_path / "p" / "test-00000-of-00001.parquet", blobs, [0, 1])
    with pytest.raises(RecipeError, match="shard 1 of 2 is missing"):
        decode(tmp_path / "p")


def test_a_file_of_no_split_is_an_error(tmp_path: Path) -> None:
    folder = parquet_folder(tmp_path / "p", noise(2), noise(2, seed=1))
    write_parquet(folder / "extra.parquet", [encode(noise(1)[0])], [0])
    with pytest.raises(RecipeError, match="belongs to no split"):
        decode(folder)
    (folder / "extra.parquet").rename(folder / "valuable.parquet")
    with pytest.raises(RecipeError, match="belongs to no split"):
        decode(folder)


def test_the_only_subfolder_is_looked_into(tmp_path: Path) -> None:
    parquet_folder(tmp_path / "p" / "plain_text", noise(2), noise(2, seed=1))
    assert len(decode(tmp_path / "p").splits["train"][1]) == 2
    parquet_folder(tmp_path / "p" / "other", noise(2), noise(2, seed=1))
    with pytest.raises(RecipeError, match="not found"):
        decode(tmp_path / "p")


@pytest.mark.parametrize(
    ("labels", "found"), [([0, 1, 0, 5], "row 3: label 5"), ([0, -1], "row 1: label -1"), ([None], "row 0: label None")]
)
def test_a_wrong_label_names_its_row(tmp_path: Path, labels: list[int | None], found: str) -> None:
    folder = parquet_folder(tmp_path / "p", noise(2), noise(2, seed=1))
    file = folder / "train-00000-of-00001.parquet"
    write_parquet(file, [encode(image) for image in noise(len(labels))], labels)
    with pytest.raises(IntegrityError, match=f"train-00000-of-00001.parquet, {found}"):
        decode(folder)


def test_a_corrupt_or_missing_image_names_its_row(tmp_path: Path) -> None:
    folder = parquet_folder(tmp_path / "p", noise(2), noise(2, seed=1))
    good = encode(noise(1)[0])
    for bad in (good[:50], None):
        write_parquet(folder / "train-00000-of-00001.parquet", [good, good, good, good, bad], [0, 1, 0, 1, 0])
        with pytest.raises(IntegrityError, match=r"train-00000-of-00001\.parquet, row 4"):
            decode(folder)


def test_corrupt_parquet_names_file_and_rows(tmp_path: Path) -> None:
    folder = parquet_folder(tmp_path / "p", noise(6), noise(2, seed=1))
    file = folder / "train-00000-of-00001.parquet"
    whole = file.read_bytes()
    for bad in (whole[: len(whole) // 2], b"PAR1", b"", b"no Parquet at all"):
        file.write_bytes(bad)
        with pytest.raises(IntegrityError, match="train-00000-of-00001"):
            decode(folder)
    damaged = bytearray(whole)
    damaged[4:600] = bytes(596)  # the first row group's first page
    file.write_bytes(damaged)
    with pytest.raises(IntegrityError, match=r"train-00000-of-00001\.parquet, row"):
        decode(folder)


@pytest.mark.parametrize("classes", [None, (), ("one",), ("same", "same")])
def test_class_names_must_be_there(tmp_path: Path, classes: tuple[str, ...] | None) -> None:
    with pytest.raises(RecipeError, match="class names"):
        decode(parquet_folder(tmp_path / "p", noise(2), noise(2, seed=1), classes=classes))


def test_class_names_must_agree(tmp_path: Path) -> None:
    folder = parquet_folder(tmp_path / "p", noise(2), noise(2, seed=1))
    write_parquet(folder / "test-00000-of-00001.parquet", [encode(noise(1)[0])], [0], classes=("dog", "cat"))
    with pytest.raises(RecipeError, match="class names"):
        decode(folder)


def test_a_missing_image_column(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="one of image, img"):
        decode(parquet_folder(tmp_path / "p", noise(2), noise(2, seed=1), column="picture"))
