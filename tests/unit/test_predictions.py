"""predictions.npz: what was saved comes back, and damaged bytes are an IntegrityError whatever the damage."""

import numpy as np
import pytest

from edgekd import predictions
from edgekd.errors import IntegrityError
from edgekd.predictions import Predictions

N, CLASSES = 12, 3
FLIPS = 400


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "artifacts" / "quantized" / "u8s8" / "0123abcd-4567cdef"
    place.mkdir(parents=True)
    random = np.random.default_rng(0)
    rows, labels = np.arange(N), random.integers(0, CLASSES, N)
    predictions.save(place, Predictions.make(rows, labels, random.normal(size=(N, CLASSES)), "test"))
    return place


def test_saved_is_loaded(folder):
    found = predictions.load(folder)
    assert found.logits.shape == (N, CLASSES) and found.logits.dtype == np.float16
    again = predictions.save(folder.parent, found)
    assert again.read_bytes() == (folder / predictions.FILE).read_bytes()


def test_the_artifact_and_the_file_are_named(folder):
    (folder / predictions.FILE).write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(IntegrityError, match=r"quantized/u8s8/0123abcd-4567cdef: predictions\.npz"):
        predictions.load(folder)


def _array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def _pickle(path):
    np.savez(path, row=np.array([{}], dtype=object))


def _half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _other(path):
    np.savez(path, other=np.zeros(3))


@pytest.mark.parametrize("spoil", [_array, _pickle, _half, _other, lambda p: p.write_bytes(b""), lambda p: p.unlink()])
def test_every_kind_of_damage_is_an_integrity_error(folder, spoil):
    spoil(folder / predictions.FILE)
    with pytest.raises(IntegrityError, match=r"predictions\.npz"):
        predictions.load(folder)


def test_a_flipped_byte_is_an_integrity_error_or_harmless(folder):
    """Some bytes of a zip (times, flags that nobody reads) carry nothing; the others must not be a traceback."""
    path = folder / predictions.FILE
    good, random = path.read_bytes(), np.random.default_rng(1)
    caught = 0
    for place in random.integers(0, len(good), FLIPS):
        path.write_bytes(good[:place] + bytes([good[place] ^ (1 << int(random.integers(8)))]) + good[place + 1 :])
        try:
            predictions.load(folder)
        except IntegrityError:
            caught += 1
    assert caught > FLIPS / 4
