from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_up import Array, encode, noise, parquet_folder, write_parquet

from edgekd.console import Console
from edgekd.data.base import Decoded
from edgekd.data.cinic10 import CINIC10
from edgekd.errors import RecipeError

CLASSES = ("airplane", "automobile")
IMAGES = {"train": noise(4), "valid": noise(4, seed=1), "test": noise(2, seed=2)}


def write(folder: Path, images: dict[str, Array] | None = None) -> Path:
    for split, arrays in (images or IMAGES).items():
        for row, image in enumerate(arrays):
            place = folder / split / CLASSES[row % 2]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"n{row:04}.png").write_bytes(encode(image))
    (folder / "README.md").write_text("beside the splits")
    return folder


def decode(root: Path) -> Decoded:
    return CINIC10().decode(CINIC10().locate([root]), None, None, Console(quiet=True))


@pytest.mark.parametrize("place", ["cinic10", "CINIC-10", "data/CINIC-10"])
def test_folder_layout_has_its_own_val(tmp_path: Path, place: str) -> None:
    write(tmp_path / place)
    data = decode(tmp_path)
    assert (data.layout, data.classes) == ("split folders", CLASSES)
    assert set(data.splits) == {"train", "val", "test"}
    assert np.array_equal(data.splits["val"][0], IMAGES["valid"][[0, 2, 1, 3]])  # class by class
    assert data.splits["val"][1].tolist() == [0, 0, 1, 1]


def test_parquet_and_both(tmp_path: Path) -> None:
    folder = parquet_folder(tmp_path / "cinic10" / "data", IMAGES["train"], IMAGES["test"], classes=CLASSES)
    valid = [encode(image) for image in IMAGES["valid"]]
    write_parquet(folder / "validation-00000-of-00001.parquet", valid, [0, 1, 0, 1], CLASSES)
    assert decode(tmp_path).layout == "parquet"
    write(tmp_path / "CINIC-10")
    assert CINIC10().locate([tmp_path]).layout == "parquet+split folders"
    assert len(decode(tmp_path).splits["val"][1]) == 4
    (tmp_path / "CINIC-10" / "valid" / CLASSES[0] / "more.png").write_bytes(encode(noise(1, seed=9)[0]))
    with pytest.raises(RecipeError, match="two different cinic10"):
        decode(tmp_path)


def test_missing_data_lists_every_place(tmp_path: Path) -> None:
    (tmp_path / "CINIC-10" / "train").mkdir(parents=True)
    with pytest.raises(RecipeError) as caught:
        CINIC10().locate([tmp_path])
    assert "there, but without *.parquet or folders train, valid, test" in str(caught.value)
    assert f"{tmp_path / 'data' / 'cinic10'} (no such folder)" in str(caught.value)
