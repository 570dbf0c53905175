from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import noise

from edgekd.data.calibration import calibration_rows, golden_rows
from edgekd.data.roles import RoleArrays, split
from edgekd.data.stratify import stratified
from edgekd.errors import IntegrityError, RecipeError
from edgekd.params import Roles

CLASSES, TRAIN, TEST = 4, 200, 40


@dataclass(frozen=True)
class Made:
    """Stands for an artifact: its folder."""

    path: Path


def write(folder: Path, val: int = 0, twins: tuple[int, ...] = ()) -> Path:
    counts = {"train": TRAIN, "test": TEST} | ({"val": val} if val else {})
    for seed, (name, n) in enumerate(counts.items()):
        np.save(folder / f"images_{name}.npy", noise(n, 4, 4, seed=seed))
        np.save(folder / f"labels_{name}.npy", np.arange(n, dtype=np.int64) % CLASSES)
    np.save(folder / "twins_train.npy", np.array(twins, dtype=np.int64))
    (folder / "data.json").write_text(json.dumps({"splits": counts}))
    return folder


def counts(roles: RoleArrays, role: str) -> list[int]:
    return np.bincount(roles.labels(role), minlength=CLASSES).tolist()


def test_roles_are_disjoint_stratified_and_deterministic(tmp_path: Path) -> None:
    data = Made(write(tmp_path))
    roles, again = split(data, Roles(val=40, train=80, seed=3)), split(tmp_path, Roles(val=40, train=80, seed=3))
    for role in ("train", "val", "test"):
        assert np.array_equal(roles.rows[role], again.rows[role])
        assert np.array_equal(roles.rows[role], np.sort(roles.rows[role]))
        assert roles.rows[role].dtype == np.int64
        assert len(set(counts(roles, role))) == 1
    assert not set(roles.rows["train"].tolist()) & set(roles.rows["val"].tolist())
    assert [len(roles.rows[role]) for role in ("train", "val", "test")] == [80, 40, TEST]
    other = split(data, Roles(val=40, train=80, seed=4))
    assert not np.array_equal(roles.rows["val"], other.rows["val"])
    whole = split(data, Roles(val=40, seed=3))
    assert np.array_equal(whole.rows["val"], roles.rows["val"])  # the same val whatever the train subset
    assert set(roles.rows["train"].tolist()) < set(whole.rows["train"].tolist())


def test_no_val_is_the_protocol_of_the_papers(tmp_path: Path) -> None:
    roles = split(write(tmp_path), Roles())
    assert len(roles.rows["val"]) == len(roles.images("val")) == len(roles.labels("val")) == 0
    assert np.array_equal(roles.rows["train"], np.arange(TRAIN))


def test_images_and_labels_of_a_role(tmp_path: Path) -> None:
    roles = split(write(tmp_path), Roles(val=20))
    images, val = np.load(tmp_path / "images_train.npy"), roles.images("val")
    assert np.array_equal(np.asarray(val), images[roles.rows["val"]])
    assert np.array_equal(val[2:5], images[roles.rows["val"][2:5]])
    assert np.array_equal(np.concatenate(list(val.batches(7))), val[:])
    assert np.array_equal(roles.labels("val"), roles.rows["val"] % CLASSES)
    assert isinstance(val.images, np.memmap)
    assert not val.images.flags.writeable


def test_images_that_are_there_twice_never_reach_val(tmp_path: Path) -> None:
    twins = tuple(range(100))
    write(tmp_path, twins=twins)
    for seed in range(3):
        assert not set(split(tmp_path, Roles(val=100, seed=seed)).rows["val"].tolist()) & set(twins)
    with pytest.raises(RecipeError, match=r"(?s)data\.val: 101 images.*100 of its 200 images are there more than once"):
        split(tmp_path, Roles(val=101))


def test_own_val_split_is_the_val_role(tmp_path: Path) -> None:
    write(tmp_path, val=20)
    roles = split(tmp_path, Roles())
    assert len(roles.rows["val"]) == 20
    assert np.array_equal(np.asarray(roles.images("val")), np.load(tmp_path / "images_val.npy"))
    assert len(roles.rows["train"]) == TRAIN
    assert counts(split(tmp_path, Roles(val=8)), "val") == [2, 2, 2, 2]
    with pytest.raises(RecipeError, match=r"data\.val"):
        split(tmp_path, Roles(val=21))


@pytest.mark.parametrize(
    ("sizes", "key"),
    [((200, None), "data.val"), ((-1, None), "data.val"), ((100, 101), "data.train"), ((0, 0), "data.train")],
)
def test_sizes_beyond_what_is_there(tmp_path: Path, sizes: tuple[int, int | None], key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        split(write(tmp_path), Roles(val=sizes[0], train=sizes[1]))
    assert caught.value.where == key


def test_a_damaged_array_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "labels_test.npy").write_bytes(b"no array")
    with pytest.raises(IntegrityError, match=r"labels_test\.npy"):
        split(tmp_path, Roles())


def test_calibration_is_a_fixed_part_of_the_train_role(tmp_path: Path) -> None:
    roles = split(write(tmp_path), Roles(val=40, train=120))
    rows = calibration_rows(roles, 40, 0)
    assert np.array_equal(rows, calibration_rows(roles, 40, 0))
    assert not np.array_equal(rows, calibration_rows(roles, 40, 1))
    assert set(rows.tolist()) < set(roles.rows["train"].tolist())
    assert np.bincount(rows % CLASSES).tolist() == [10] * CLASSES
    assert len(calibration_rows(roles, 120, 0)) == 120
    for n in (0, 121):
        with pytest.raises(RecipeError, match=r"quantize\.images"):
            calibration_rows(roles, n, 0)


@pytest.mark.parametrize("val", [0, 40])
def test_golden_rows_hang_on_the_train_role_alone(tmp_path: Path, val: int) -> None:
    write(tmp_path)
    roles = [split(tmp_path, Roles(val=val, seed=seed)) for seed in (1, 1, 2)]
    first, again, other = (golden_rows(given, 16) for given in roles)
    assert np.array_equal(first, again)
    # The seed tells only through val, which is carved out of train.
    assert np.array_equal(first, other) == np.array_equal(roles[0].rows["train"], roles[2].rows["train"]) == (val == 0)
    for rows, role in ((first, roles[0]), (other, roles[2])):
        assert set(rows.tolist()) < set(role.rows["train"].tolist())
        assert not set(rows.tolist()) & set(role.rows["val"].tolist())
        assert np.bincount(rows % CLASSES).tolist() == [4] * CLASSES
    assert len(golden_rows(split(tmp_path, Roles()), 10_000)) == TRAIN


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.data())
def test_stratified_gives_n_rows_within_one_of_the_exact_share(classes: list[int], data: st.DataObject) -> None:
    labels = np.array(classes, dtype=np.int64)
    n = data.draw(st.integers(0, len(labels)))
    eligible = np.arange(len(labels))
    rows = stratified(labels, eligible, n, np.random.Generator(np.random.PCG64(0)))
    assert len(set(rows.tolist())) == len(rows) == n
    shares = np.bincount(labels, minlength=6) * n / len(labels)
    assert np.abs(np.bincount(labels[rows], minlength=6) - shares).max() < 1
