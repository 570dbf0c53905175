"""Before any figure: the bytes are those of the bundle, and the model gives the golden answers."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Tuple, Union

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
        if (
            (path.is_symlink() or not path.is_dir())
            and name not in (bundles.FILE, bundles.SIGNATURE)
            and name not in bundle.files
        ):
            raise RunnerError(INTEGRITY, name, "lies in the bundle and is not listed", "only the files of bundle.json")
    for name, expected in sorted(bundle.files.items()):
        try:
            found = sha256(bundle.path(name))
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            found = getattr(error, "strerror", None) or str(error)
            raise RunnerError(INTEGRITY, name, found, "a file of the bundle") from error
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
    """Answer the golden images and compare; gives `agreement.compare`'s figures and the tolerance.

    One by one, or as many at once as the engine takes where a call costs a process.

    Raises:
        RunnerError: 3: outside the tolerance, or answers that cannot be compared; 6: golden.npz is not what it should be.
    """
    images, expected = _golden(bundle)
    step = (runtime.batch or len(images)) if runtime.whole else 1
    pieces = [images[i : i + step] for i in range(0, len(images), step)]
    answers: List[npt.NDArray[np.float32]] = [runtime.infer(normalise(piece)) for piece in pieces]
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


def _golden(bundle: Bundle) -> Tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Images uint8 [g, H, W, C] and logits float [g, classes] of golden.npz, g >= 1."""
    try:
        with np.load(str(bundle.path(bundle.golden)), allow_pickle=False) as file:
            images, logits = file["images"], file["logits"]
    except (AttributeError, TypeError, IndexError) as error:  # a lone array
        raise RunnerError(INTEGRITY, bundle.golden, "not a .npz: {}".format(error)) from error
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise RunnerError(INTEGRITY, bundle.golden, "not golden images and logits: {}".format(error)) from error
    right = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == len(bundle.mean) and len(images) > 0
    if not right or logits.shape != (len(images), len(bundle.labels)) or logits.dtype.kind != "f":
        found = "{} {}, {} {}".format(images.dtype, images.shape, logits.dtype, logits.shape)
        raise RunnerError(INTEGRITY, bundle.golden, found, "uint8 [g, H, W, C] and float [g, classes], g >= 1")
    return images, logits
