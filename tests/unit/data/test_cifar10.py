from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import noise, parquet_folder, write_batches

from edgekd.console import Console
from edgekd.data.base import Decoded
from edgekd.data.cifar10 import CIFAR10
from edgekd.errors import IntegrityError, RecipeError

TRAIN, TEST = noise(10), noise(4, seed=1)


def decode(root: Path, size: int | None = None) -> Decoded:
    located = CIFAR10().locate([root])
    return CIFAR10().decode(located, size, None, Console(quiet=True))


@pytest.mark.parametrize("place", ["cifar-10-batches-py", "data/cifar-10-batches-py", "cifar10/cifar-10-batches-py"])
def test_torchvision_layout(tmp_path: Path, place: str) -> None:
    write_batches(tmp_path / place, TRAIN, TEST)
    data = decode(tmp_path)
    assert data.layout == CIFAR10().locate([tmp_path]).layout == "torchvision"
    assert data.classes == ("cat", "dog")
    assert np.array_equal(data.splits["train"][0], TRAIN)
    assert np.array_equal(data.splits["test"][0], TEST)
    assert data.splits["train"][1].tolist() == [0, 1] * 5
    assert decode(tmp_path, size=16).splits["test"][0].shape == (4, 16, 16, 3)


def test_a_python_2_pickle(tmp_path: Path) -> None:
    """Opcodes as Python 2 and its NumPy wrote them: byte strings and `numpy.core.multiarray`."""
    folder = write_batches(tmp_path / "cifar-10-batches-py", TRAIN, TEST)
    raw = TEST.transpose(0, 3, 1, 2).tobytes()
    (folder / "test_batch").write_bytes(
        b"\x80\x02}q\x01(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x04M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89T" + len(raw).to_bytes(4, "little") + raw + b"tb"
        b"U\x06labels](K\x00K\x01K\x00K\x01eu."
    )  # fmt: skip
    assert np.array_equal(decode(tmp_path).splits["test"][0], TEST)


def test_both_layouts_with_equal_content_use_the_parquet(tmp_path: Path) -> None:
    parquet_folder(tmp_path / "cifar10", TRAIN, TEST)
    alone = CIFAR10().locate([tmp_path])
    write_batches(tmp_path / "cifar-10-batches-py", TRAIN, TEST)
    both = CIFAR10().locate([tmp_path])
    assert (alone.layout, both.layout) == ("parquet", "parquet+torchvision")
    assert alone.sources != both.sources
    assert decode(tmp_path).layout == "parquet"


@pytest.mark.parametrize("what", ["pixel", "label", "class name"])
def test_both_layouts_with_different_content_are_refused(tmp_path: Path, what: str) -> None:
    parquet_folder(tmp_path / "cifar10", TRAIN, TEST)
    other = TRAIN.copy()
    if what == "pixel":
        other[3, 0, 0, 0] ^= 1
    if what == "label":
        other = other[[1, 0, *range(2, 10)]]
    names = ("cat", "bird") if what == "class name" else ("cat", "dog")
    write_batches(tmp_path / "cifar-10-batches-py", other, TEST, names)
    with pytest.raises(RecipeError, match="two different cifar10"):
        decode(tmp_path)


def test_missing_data_lists_both_layouts(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        CIFAR10().locate([tmp_path])
    for place in ("cifar10", "data/cifar10", "cifar-10-batches-py", "data/cifar-10-batches-py"):
        assert f"{tmp_path / place} (no such folder)" in str(caught.value)
    assert "EDGEKD_DATA" in caught.value.hint


class Bomb:
    """Pickles as a call of os.system."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_is_refused_and_not_executed(tmp_path: Path, file: str, protocol: int) -> None:
    folder = write_batches(tmp_path / "cifar-10-batches-py", TRAIN, TEST)
    mark = tmp_path / "executed"
    (folder / file).write_bytes(pickle.dumps({b"data": Bomb(os.system, f"touch {mark}")}, protocol=protocol))
    with pytest.raises(IntegrityError, match=rf"{file}: corrupt or hostile pickle"):
        decode(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cantigravity\nx\n.",
        b"cnumpy\ndtype\n(S'O'\ntR.",
        b"c_codecs\nencode\n(S'x'\nS'zlib'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR.",
        b"",
        b"garbage",
        b"]q\x01.",
    ],
)
def test_other_names_and_damaged_pickles(tmp_path: Path, opcodes: bytes) -> None:
    folder = write_batches(tmp_path / "cifar-10-batches-py", TRAIN, TEST)
    (folder / "data_batch_1").write_bytes(opcodes)
    with pytest.raises(IntegrityError, match="data_batch_1"):
        decode(tmp_path)
    assert "antigravity" not in sys.modules


def test_a_pickle_cannot_change_numpy(tmp_path: Path) -> None:
    folder = write_batches(tmp_path / "cifar-10-batches-py", TRAIN, TEST)
    hostile = b"\x80\x02cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01>NNNK\x63K\x63K\x00tb."
    (folder / "data_batch_1").write_bytes(hostile)
    with pytest.raises(IntegrityError):
        decode(tmp_path)
    assert np.dtype(np.uint8).alignment == 1
    assert np.dtype(np.uint8).byteorder == "|"


@pytest.mark.parametrize(
    "batch",
    [
        {b"data": TEST.reshape(4, -1)},
        {b"data": TEST.reshape(4, -1)[:, :100], b"labels": [0, 1, 0, 1]},
        {b"data": TEST.reshape(4, -1), b"labels": [0, 1]},
        {b"data": TEST.reshape(4, -1), b"labels": [0, 1, 2, 1]},
        {b"data": TEST.reshape(4, -1), b"labels": [0, 1, b"x", 1]},
    ],
)
def test_batches_of_the_wrong_form(tmp_path: Path, batch: dict[bytes, Any]) -> None:
    folder = write_batches(tmp_path / "cifar-10-batches-py", TRAIN, TEST)
    (folder / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(IntegrityError, match="test_batch"):
        decode(tmp_path)
