from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgekd import registry
from edgekd.data.base import check_augment, check_resize, find_folder, locate_files, settle_splits
from edgekd.data.checkpoint_file import find_checkpoint
from edgekd.errors import IntegrityError, RecipeError


def test_every_kind_of_data_set_is_found_and_owns_valid_defaults(tmp_path: Path) -> None:
    names = set(registry.plugins("data"))
    assert names == {"cifar10", "cifar100", "cinic10", "digits", "imagefolder", "parquet", "svhn"}
    for name in names:
        arguments = {argument.name: "x" for argument in registry.find("data", name).arguments}
        source = registry.construct("data", name, arguments)
        assert source.name == name
        check_augment(source.augment)


def test_a_missing_data_set_lists_every_place_and_how_to_give_another(tmp_path: Path) -> None:
    roots = [tmp_path / "a", tmp_path / "b"]
    (tmp_path / "b" / "pets").mkdir(parents=True)
    with pytest.raises(RecipeError) as caught:
        find_folder("data.path", "pets", roots, lambda folder: any(folder.iterdir()), "*.parquet")
    text = str(caught.value)
    for root in roots:
        assert f"{root / 'pets'} (" in text
        assert f"{root / 'data' / 'pets'} (no such folder)" in text
    assert f"{tmp_path / 'b' / 'pets'} (there, but without *.parquet)" in text
    assert caught.value.hint == "set EDGEKD_DATA or --data-root"
    assert caught.value.exit_code == 2


def test_no_data_root_at_all_is_said() -> None:
    with pytest.raises(RecipeError, match="no data root is given"):
        find_folder("data.path", "pets", [], lambda folder: True, "anything")


def test_lookup_order_and_absolute_path(tmp_path: Path) -> None:
    second = tmp_path / "b" / "data" / "pets"
    second.mkdir(parents=True)
    roots = [tmp_path / "a", tmp_path / "b"]
    assert find_folder("k", "pets", roots, Path.is_dir, "x") == second
    first = tmp_path / "a" / "pets"
    first.mkdir(parents=True)
    assert find_folder("k", "pets", roots, Path.is_dir, "x") == first
    assert find_folder("k", str(second), roots, Path.is_dir, "x") == second


def test_a_folder_that_is_called_like_a_home_is_found(tmp_path: Path) -> None:
    (tmp_path / "~no-such-user").mkdir()
    assert find_folder("k", "~no-such-user", [tmp_path], Path.is_dir, "x") == tmp_path / "~no-such-user"
    (tmp_path / "~no-such-user.pt").touch()
    assert find_checkpoint("~no-such-user.pt", None, [tmp_path]) == tmp_path / "~no-such-user.pt"


def test_sources_is_content_not_place(tmp_path: Path) -> None:
    digests = []
    for place in ("one", "two"):
        folder = tmp_path / place
        folder.mkdir()
        for name in ("b.bin", "a.bin"):
            (folder / name).write_bytes(name.encode())
        digests.append(locate_files("n", folder, folder.iterdir(), "x").sources)
    assert digests[0] == digests[1]
    (tmp_path / "two" / "a.bin").write_bytes(b"A")
    assert locate_files("n", tmp_path / "two", (tmp_path / "two").iterdir(), "x").sources != digests[0]


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX file system")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(IntegrityError, match="gone"):
        locate_files("n", tmp_path, [tmp_path / "gone"], "x")


@pytest.mark.parametrize(
    "tokens",
    [
        ("crop0",),
        ("crop",),
        ("Flip",),
        ("crop4", "crop2"),
        ("rotate",),
        ("crop4;",),
        ("rrc4",),
        ("rrc", "rrc"),
        ("rrc", "crop4"),
    ],
)
def test_wrong_augmentations(tokens: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError):
        check_augment(tokens)


@pytest.mark.parametrize("tokens", [(), ("crop4",), ("rrc",), ("flip", "rrc"), ("crop4", "flip")])
def test_right_augmentations(tokens: tuple[str, ...]) -> None:
    check_augment(tokens)


def test_resize_rules() -> None:
    check_resize(None, None)
    check_resize(32, "squash")
    check_resize(32, "photo")
    for size, rule in ((0, None), (32, "stretch"), (None, "squash")):
        with pytest.raises(RecipeError, match=r"data\.(size|resize)"):
            check_resize(size, rule)


def test_settling_splits() -> None:
    assert settle_splits({"train": 1, "test": 2, "val": 3}, "k")[0] == {"train": 1, "test": 2, "val": 3}
    settled, rule = settle_splits({"train": 1, "val": 3}, "k")
    assert settled == {"train": 1, "test": 3}
    assert "val is the test split" in rule
    for found in ({"train": 1}, {"test": 1}, {}):
        with pytest.raises(RecipeError):
            settle_splits(found, "k")
