"""Which image plays which role: train, val and test are disjoint by content; decisions never see test.

With no val split of its own, a source's val is carved from train, stratified by label. An image that is in train more than
once is never carved out, so no picture stands on both sides. A source's own val split is the val role, whole or a
stratified part of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from edgekd.data.base import Images, Labels, Photos
from edgekd.data.stratify import Rows, stratified
from edgekd.errors import IntegrityError, RecipeError

DATA_FILE = "data.json"
PHOTOS_FILE, PHOTOS_INDEX_FILE = "photos_train.npy", "photos_train_index.npy"  # `Photos`, with `data.resize: photo`
TWINS_FILE = "twins_train.npy"  # int64 rows of train whose image another row of train has too
TRAIN_STREAM = 1  # the train subset draws from PCG64([seed, 1]): the same val whatever the subset


class HasPath(Protocol):
    """A data artifact, or anything with its folder."""

    @property
    def path(self) -> Path: ...  # noqa: D102


class RoleSizes(Protocol):
    """How many images each role gets (`edgekd.params.Roles`)."""

    @property
    def val(self) -> int: ...  # noqa: D102

    @property
    def train(self) -> int | None: ...  # noqa: D102

    @property
    def seed(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class Split:
    """Images of one role: a memory-mapped array and the rows of it that belong to the role.

    Attributes:
        images: uint8 [N, H, W, C], the whole source split.
        rows: int64 [n].
    """

    images: Images
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | Rows) -> Images:
        """Images of the role by their place in it: uint8 [k, H, W, C], a copy."""
        return np.asarray(self.images[self.rows[index]])

    def batches(self, size: int) -> Iterator[Images]:
        """All images in order, `size` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self[:] if dtype is None else self[:].astype(dtype)


@dataclass(frozen=True)
class RoleArrays:
    """The rows of every role and their images.

    Attributes:
        rows: Role (`train`, `val`, `test`) -> int64 rows of its source split, sorted; val is empty when nothing is held out.
        info: The artifact's data.json.
        photos: With `data.resize: photo`, the images of the train role before they were cut to a square, in its order.
    """

    rows: Mapping[str, Rows]
    info: Mapping[str, Any]
    photos: Photos | None
    _images: Mapping[str, Images]
    _labels: Mapping[str, Labels]

    def images(self, role: str) -> Split:
        """The images of a role."""
        return Split(self._images[role], self.rows[role])

    def labels(self, role: str) -> Labels:
        """int64 [n], the labels of a role."""
        return np.asarray(self._labels[role][self.rows[role]])


def read_info(folder: Path) -> dict[str, Any]:
    """data.json of a data artifact."""
    return cast("dict[str, Any]", json.loads((folder / DATA_FILE).read_text(encoding="utf-8")))


def split(data: HasPath | Path, roles: RoleSizes) -> RoleArrays:
    """Share a data artifact out in roles; the same artifact and sizes always give the same rows.

    Raises:
        RecipeError: `data.val` or `data.train` asks for more images than there are.
    """
    folder = data if isinstance(data, Path) else data.path
    info = read_info(folder)
    images = {name: _load(folder / f"images_{name}.npy") for name in info["splits"]}
    labels = {name: _load(folder / f"labels_{name}.npy") for name in info["splits"]}
    everything = {name: np.arange(len(labels[name]), dtype=np.int64) for name in labels}
    val, train = _held_out(folder, labels, everything, roles)
    if roles.train is not None:
        if not 0 < roles.train <= len(train):
            raise RecipeError("data.train", f"{roles.train} images", f"1 to {len(train)}, what is left beside val")
        generator = np.random.Generator(np.random.PCG64([roles.seed, TRAIN_STREAM]))
        train = stratified(labels["train"], train, roles.train, generator)
    source = "val" if "val" in labels else "train"
    rows = {"train": train, "val": val, "test": everything["test"]}
    photos = None
    if (info.get("resize") or {}).get("rule") == "photo":
        whole = Photos(_load(folder / PHOTOS_FILE), np.asarray(_load(folder / PHOTOS_INDEX_FILE)), info["channels"])
        photos = whole.only(train)
    return RoleArrays(rows, info, photos, {**images, "val": images[source]}, {**labels, "val": labels[source]})


def _held_out(
    folder: Path, labels: Mapping[str, Labels], everything: Mapping[str, Rows], roles: RoleSizes
) -> tuple[Rows, Rows]:
    """(val rows, train rows)."""
    generator = np.random.Generator(np.random.PCG64(roles.seed))
    if "val" in labels:
        if roles.val > len(everything["val"]):
            raise RecipeError(
                "data.val", f"{roles.val} images", f"at most {len(everything['val'])}, the source's own val"
            )
        rows = everything["val"]
        return (stratified(labels["val"], rows, roles.val, generator) if roles.val else rows), everything["train"]
    train = everything["train"]
    eligible = np.setdiff1d(train, _load(folder / TWINS_FILE), assume_unique=True)
    most = min(len(eligible), len(train) - 1)
    if not 0 <= roles.val <= most:
        twins = len(train) - len(eligible)
        beside = f" ({twins} of its {len(train)} images are there more than once)" if twins else ""
        raise RecipeError("data.val", f"{roles.val} images", f"0 to {most}, out of train{beside}")
    val = stratified(labels["train"], eligible, roles.val, generator)
    return val, np.setdiff1d(train, val, assume_unique=True)


def _load(path: Path) -> npt.NDArray[Any]:
    try:
        return cast("npt.NDArray[Any]", np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise IntegrityError(str(path), f"cannot be read: {error}", "an array of a data artifact") from error
