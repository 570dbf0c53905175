"""Before any figure: the bytes are those of the bundle, and the model gives the golden answers."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Union

import numpy as np

from edgekd import agreement
from edgekd.runner import bundle as bundles
from edgekd.runner.bundle import Bundle
from edgekd.runner.failure import CHECK_FAILED, INTEGRITY, RunnerError

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgekd.runner.image import Normaliser
    from edgekd.runner.runtimes.base import Runtime

CHUNK = 1 << 20


def files(bundle: Bundle) -> None:
    """Check the SHA-256 of every file, and that no other file lies in the folder (a model may load its neighbours).

    Raises:
        RunnerError: 6: a file is missing, changed or not listed.
    """
    for path in sorted(bundle.folder.rglob("*")):
        name = path.relative_to(bundle.folder).as_posix()
        if not path.is_dir() and name != bundles.FILE and name not in bundle.files:
            raise RunnerError(INTEGRITY, name, "lies in the bundle and is not listed", "only the files of bundle.json")
    for name, expected in sorted(bundle.files.items()):
        try:
            found = sha256(bundle.path(name))
        except OSError as error:
            raise RunnerError(INTEGRITY, name, error.strerror or str(error), "a file of the bundle") from error
        if found != expected:
            raise RunnerError(INTEGRITY, name, "SHA-256 {}".format(found), expected, "make the bundle again")


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def array(bundle: Bundle, name: str, dtype: Any, dimensions: int) -> npt.NDArray[Any]:
    """A memory-mapped .npy of the bundle.

    Raises:
        RunnerError: 6: not an array of that type and number of dimensions.
    """
    try:
        values = np.load(str(bundle.path(name)), mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise RunnerError(INTEGRITY, name, "not a .npy array: {}".format(error)) from error
    if not isinstance(values, np.ndarray) or values.dtype != dtype or values.ndim != dimensions:
        raise RunnerError(INTEGRITY, name, "not an array of {} with {} dimensions".format(np.dtype(dtype), dimensions))
    return values


def golden(bundle: Bundle, normalise: Normaliser, runtime: Runtime) -> Dict[str, Union[int, float]]:
    """Answer the golden images one by one and compare; gives `agreement.compare`'s figures and the tolerance.

    Raises:
        RunnerError: 3: outside the tolerance, or answers that cannot be compared; 6: golden.npz is not what it should be.
    """
    try:
        with np.load(str(bundle.path(bundle.golden)), allow_pickle=False) as file:
            images, expected = file["images"], file["logits"]
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise RunnerError(INTEGRITY, bundle.golden, "not golden images and logits: {}".format(error)) from error
    answers: List[npt.NDArray[np.float32]] = [runtime.infer(normalise(image[None])) for image in images]
    try:
        found = agreement.compare(expected, np.concatenate(answers))
    except ValueError as error:
        raise RunnerError(CHECK_FAILED, "golden images", str(error), "the golden logits") from error
    found["tolerance"] = bundle.tolerance
    if found["error_to_range"] > bundle.tolerance:
        raise RunnerError(
            CHECK_FAILED,
            "golden images",
            "largest error {:.3g} of the logit range, {} of {} answers differ".format(
                found["error_to_range"], found["disagreements"], found["images"]
            ),
            "at most {:g}".format(bundle.tolerance),
            "this runtime does not compute what the model was checked with",
        )
    return found
