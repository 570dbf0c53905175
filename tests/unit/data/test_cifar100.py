from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import Array, noise, parquet_folder

from edgekd.console import Console
from edgekd.data.base import Decoded
from edgekd.data.cifar100 import CIFAR100
from edgekd.errors import IntegrityError, RecipeError

TRAIN, TEST = noise(10), noise(4, seed=1)
CLASSES = ("apple", "baby")


def write_python(folder: Path, train: Array = TRAIN, test: Array = TEST) -> Path:
    """The three files of `cifar-100-python`, with the keys that they have."""
    folder.mkdir(parents=True)
    for name, images in (("train", train), ("test", test)):
        batch = {
            b"filenames": [b"apple_s_1.png"] * len(images),
            b"batch_label": b"training batch 1 of 1",
            b"fine_labels": [row % 2 for row in range(len(images))],
            b"coarse_labels": [0] * len(images),
            b"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1).copy(),
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    meta = {b"fine_label_names": [name.encode() for name in CLASSES], b"coarse_label_names": [b"fruit", b"people"]}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    return folder


def decode(root: Path, size: int | None = None) -> Decoded:
    return CIFAR100().decode(CIFAR100().locate([root]), size, None, Console(quiet=True))


@pytest.mark.parametrize("place", ["cifar-100-python", "data/cifar-100-python", "cifar100/cifar-100-python"])
def test_torchvision_layout(tmp_path: Path, place: str) -> None:
    write_python(tmp_path / place)
    data = decode(tmp_path)
    assert data.layout == "torchvision"
    assert data.classes == CLASSES
    assert np.array_equal(data.splits["train"][0], TRAIN)
    assert np.array_equal(data.splits["test"][0], TEST)
    assert data.splits["train"][1].tolist() == [0, 1] * 5
    assert decode(tmp_path, size=16).splits["test"][0].shape == (4, 16, 16, 3)


@pytest.mark.parametrize("place", ["cifar100", "cifar100/cifar100", "data/cifar100"])
def test_hugging_face_layout_reads_the_fine_labels(tmp_path: Path, place: str) -> None:
    parquet_folder(tmp_path / place, TRAIN, TEST, classes=CLASSES, label="fine_label")
    data = decode(tmp_path)
    assert (data.layout, data.classes) == ("parquet", CLASSES)
    assert data.splits["train"][1].tolist() == [0, 1] * 5
    assert np.array_equal(data.splits["train"][0], TRAIN)


def test_parquet_without_fine_labels_is_refused(tmp_path: Path) -> None:
    parquet_folder(tmp_path / "cifar100", TRAIN, TEST, classes=CLASSES)
    with pytest.raises(RecipeError, match="fine_label"):
        decode(tmp_path)


def test_both_layouts_are_compared(tmp_path: Path) -> None:
    parquet_folder(tmp_path / "cifar100", TRAIN, TEST, classes=CLASSES, label="fine_label")
    folder = write_python(tmp_path / "cifar-100-python")
    assert CIFAR100().locate([tmp_path]).layout == "parquet+torchvision"
    assert decode(tmp_path).layout == "parquet"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    write_python(folder, train=TRAIN[::-1])  # the same images under other labels
    with pytest.raises(RecipeError, match="two different cifar100"):
        decode(tmp_path)


def test_missing_data_lists_both_layouts(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        CIFAR100().locate([tmp_path])
    for place in ("cifar100", "data/cifar100", "cifar-100-python", "data/cifar-100-python"):
        assert f"{tmp_path / place} (no such folder)" in str(caught.value)


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("file", ["train", "test", "meta"])
def test_a_hostile_pickle_is_not_executed(tmp_path: Path, file: str) -> None:
    folder = write_python(tmp_path / "cifar-100-python")
    mark = tmp_path / "executed"
    (folder / file).write_bytes(pickle.dumps({b"data": Bomb(mark)}, protocol=2))
    with pytest.raises(IntegrityError, match=rf"{file}: corrupt or hostile pickle"):
        decode(tmp_path)
    assert not mark.exists()
