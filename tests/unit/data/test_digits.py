from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from edgekd.console import Console
from edgekd.data.base import Decoded
from edgekd.data.digits import Digits
from edgekd.data.stratify import content_hashes
from edgekd.errors import IntegrityError, MissingTool

QUIET = Console(quiet=True)


def decode(size: int | None = None) -> Decoded:
    return Digits().decode(Digits().locate([]), size, None, QUIET)


def test_the_pixels_are_scikit_learns() -> None:
    bunch = load_digits()
    expected = np.floor(bunch.images * 255 / 16 + 0.5).astype(np.uint8)
    data = decode()
    ours = {
        (h, int(y))
        for images, labels in data.splits.values()
        for h, y in zip(content_hashes(images), labels, strict=True)
    }
    assert ours == {(h, int(y)) for h, y in zip(content_hashes(expected[..., None]), bunch.target, strict=True)}
    assert (expected.min(), expected.max()) == (0, 255)


def test_the_split_is_fixed_stratified_and_recorded() -> None:
    data, again = decode(), decode()
    (train, train_labels), (test, test_labels) = data.splits["train"], data.splits["test"]
    assert len(train) + len(test) == 1797
    assert np.array_equal(test, again.splits["test"][0])
    share = np.bincount(test_labels) / (np.bincount(test_labels) + np.bincount(train_labels))
    assert np.abs(share - 0.2).max() < 0.005
    assert "80/20" in data.split_rule
    assert not set(content_hashes(train).tolist()) & set(content_hashes(test).tolist())


def test_size_is_carried_out() -> None:
    assert decode(16).splits["test"][0].shape[1:] == (16, 16, 1)


def test_locating_imports_no_framework() -> None:
    code = (
        "import sys; from edgekd.data.digits import Digits; print(Digits().locate([]).sources);"
        "sys.exit(bool({'torch', 'sklearn', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == Digits().locate([]).sources


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingTool, match="scikit-learn"):
        Digits().locate([])


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"1,2,x\n"), gzip.compress(b"1,2\n"), b"\x1f\x8b\x08"])
def test_a_corrupt_table(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "digits.csv.gz").write_bytes(content)
    located = dataclasses.replace(Digits().locate([]), files=(tmp_path / "digits.csv.gz",))
    with pytest.raises(IntegrityError, match=r"digits\.csv\.gz"):
        Digits().decode(located, None, None, QUIET)
