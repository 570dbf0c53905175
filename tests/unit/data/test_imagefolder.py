from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_up import Array, encode, noise

from edgekd.console import Console
from edgekd.data.base import Decoded, Located
from edgekd.data.imagefolder import ImageFolder
from edgekd.errors import IntegrityError, RecipeError


def write(folder: Path, images: Array, ending: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for row, image in enumerate(images):
        (folder / f"{row:03}.{ending}").write_bytes(encode(image))


def decode(folder: Path, size: int | None = None, resize: str | None = None) -> Decoded:
    source = ImageFolder(str(folder))
    return source.decode(source.locate([]), size, resize, Console(quiet=True))


@pytest.mark.parametrize("second", ["test", "val"])
def test_split_folders(tmp_path: Path, second: str) -> None:
    cats, dogs = noise(3), noise(2, seed=1)
    write(tmp_path / "train" / "cat", cats)
    write(tmp_path / "train" / "dog", dogs, "PNG")
    write(tmp_path / second / "dog" / "nested", noise(1, seed=2))
    write(tmp_path / second / "cat", noise(1, seed=3))
    (tmp_path / "train" / "cat" / ".hidden").write_text("left by a desktop")
    (tmp_path / "train" / "cat" / "Thumbs.db").write_text("left by a desktop")
    data = decode(tmp_path)
    assert data.classes == ("cat", "dog")
    assert np.array_equal(data.splits["train"][0], np.concatenate([cats, dogs]))
    assert data.splits["train"][1].tolist() == [0, 0, 0, 1, 1]
    assert set(data.splits) == {"train", "test"}
    assert data.layout == "split folders"


def test_bare_classes_get_a_fixed_stratified_split_and_twins_stay_in_train(tmp_path: Path) -> None:
    cats = noise(10)
    cats[1] = cats[0]
    write(tmp_path / "cat", cats)
    write(tmp_path / "dog", noise(20, seed=1))
    data, again = decode(tmp_path), decode(tmp_path)
    test, labels = data.splits["test"]
    assert np.bincount(labels).tolist() == [2, 4]
    assert np.array_equal(test, again.splits["test"][0])
    assert not any(np.array_equal(image, cats[0]) for image in test)
    assert "80/20" in data.split_rule


@pytest.mark.parametrize(
    ("sizes", "copied", "held_out"),
    [((25, 25, 1, 1, 1), 0, [5, 5, 0, 0, 0]), ((40, 8), 39, [1, 1])],
    ids=["lone images", "a class where all others are there twice"],
)
def test_no_class_goes_to_test_whole(tmp_path: Path, sizes: tuple[int, ...], copied: int, held_out: list[int]) -> None:
    for label, size in enumerate(sizes):
        images = noise(size, seed=label)
        if not label and copied:
            images[:copied] = images[0]
        write(tmp_path / str(label), images)
    data = decode(tmp_path)
    assert np.bincount(data.splits["test"][1], minlength=len(sizes)).tolist() == held_out
    assert set(data.splits["train"][1]) == set(range(len(sizes)))


@pytest.mark.parametrize(
    ("n", "copies", "says"), [(20, 2, "every image of class 'rare'"), (1, 1, "too few to hold out")]
)
def test_classes_that_cannot_be_tested_are_refused(tmp_path: Path, n: int, copies: int, says: str) -> None:
    write(tmp_path / "common", noise(n))
    write(tmp_path / "rare", np.concatenate([noise(n // copies, seed=1)] * copies))
    with pytest.raises(RecipeError, match=says):
        decode(tmp_path)


def test_grey_and_colour_of_many_sizes(tmp_path: Path) -> None:
    write(tmp_path / "train" / "cat", noise(2, 20, 30, 1))
    write(tmp_path / "train" / "dog", noise(2, 40, 10))
    write(tmp_path / "test" / "cat", noise(1, 16, 16, 1))
    write(tmp_path / "test" / "dog", noise(1, 16, 16))
    with pytest.raises(RecipeError, match=r"data\.size"):
        decode(tmp_path)
    for rule in (None, "squash", "fit-crop"):
        images = decode(tmp_path, 16, rule).splits["train"][0]
        assert images.shape == (4, 16, 16, 3)
        assert (images[0, ..., 0] == images[0, ..., 1]).all()  # grey repeated


def test_all_grey_stays_one_channel(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            write(tmp_path / split / name, noise(2, 8, 8, 1))
    assert decode(tmp_path).splits["test"][0].shape == (4, 8, 8, 1)


def test_corrupt_file_is_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            write(tmp_path / split / name, noise(2))
    (tmp_path / "test" / "b" / "000.png").write_bytes(b"\x89PNG")
    with pytest.raises(IntegrityError, match=r"test/b/000\.png"):
        decode(tmp_path)


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="not found"):
        decode(tmp_path / "nowhere")
    with pytest.raises(RecipeError, match="without <class>/ folders"):
        decode(tmp_path)
    write(tmp_path / "train" / "a", noise(1))
    write(tmp_path / "train" / "b", noise(1))
    with pytest.raises(RecipeError, match="splits found: train"):
        decode(tmp_path)
    write(tmp_path / "test" / "a", noise(1))
    with pytest.raises(RecipeError, match="test has no folder 'b'"):
        decode(tmp_path)
    (tmp_path / "test" / "b").mkdir()
    with pytest.raises(RecipeError, match="a class without images"):
        decode(tmp_path)
    (tmp_path / "test" / "b" / "clip.gif").write_bytes(b"GIF89a")
    with pytest.raises(RecipeError, match=r"clip\.gif: not a kind of image"):
        decode(tmp_path)
    (tmp_path / "masks").mkdir()
    with pytest.raises(RecipeError, match="masks beside split folders"):
        decode(tmp_path)


def test_one_class_is_none(tmp_path: Path) -> None:
    write(tmp_path / "cat", noise(3))
    with pytest.raises(RecipeError, match="two or more class folders"):
        decode(tmp_path)


def photos(folder: Path) -> Path:
    """Two classes with three sound photos each, and a broken one, a note and a spreadsheet in the first."""
    for name in ("a", "b"):
        write(folder / name, noise(3, seed=ord(name)))
    (folder / "a" / "broken.png").write_bytes(b"")
    (folder / "a" / "note.TXT").write_text("x")
    (folder / "a" / "more").mkdir()
    (folder / "a" / "more" / "table.csv").write_text("x")
    return folder


def skipping(folder: Path, *skip: str) -> tuple[Located, Decoded]:
    source = ImageFolder(str(folder), list(skip))
    located = source.locate([])
    return located, source.decode(located, None, None, Console(quiet=True))


def test_files_are_left_out_by_name_and_by_ending(tmp_path: Path) -> None:
    folder = photos(tmp_path)
    located, data = skipping(folder, "*.txt", "a/broken.png", "a/more/table.csv", "b/000.png")
    assert located.skipped == 4
    assert {file.name for file in located.files} == {"000.png", "001.png", "002.png"} and len(located.files) == 5
    assert sum(len(labels) for _, labels in data.splits.values()) == 5
    for name in ("a/broken.png", "a/note.TXT", "a/more/table.csv", "b/000.png"):
        (folder / name).unlink()
    assert skipping(folder)[0].sources == located.sources  # what is left out does not count


@pytest.mark.parametrize("gone", ["a/none.png", "*.pdf", "../x.png", "a", "/etc/hosts", "", "*", "a/*.png"])
def test_a_name_that_no_file_has_is_an_error(tmp_path: Path, gone: str) -> None:
    folder = photos(tmp_path)
    with pytest.raises(RecipeError) as caught:
        skipping(folder, "a/broken.png", "*.txt", "*.csv", gone)
    assert caught.value.where == "data.skip" and repr(gone) in caught.value.found
    assert "edgekd init" in caught.value.hint


def test_what_is_not_left_out_stays_an_error_that_says_how(tmp_path: Path) -> None:
    folder = photos(tmp_path)
    with pytest.raises(IntegrityError, match=r"a/broken\.png") as broken:
        skipping(folder, "*.txt", "*.csv")
    with pytest.raises(RecipeError, match=r"table\.csv: not a kind of image") as stranger:
        skipping(folder, "a/broken.png", "*.txt")
    assert all("edgekd init --data" in caught.value.hint for caught in (broken, stranger))


def test_a_class_of_which_nothing_is_left_is_none(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="b: a class without images"):
        skipping(photos(tmp_path), "*.txt", "*.csv", "a/broken.png", *(f"b/{row:03}.png" for row in range(3)))
