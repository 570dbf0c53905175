"""Reading one artifact's folder: every file that a report opens is opened here, and bad bytes are named."""

from __future__ import annotations

import json
import math
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekd import predictions
from edgekd.errors import IntegrityError

if TYPE_CHECKING:
    from edgekd.artifact import Artifact

REPLACEMENT = "\ufffd"
CONTROL = {"Cc", "Cs"}  # control characters and lone surrogates: not allowed in XML, dangerous on a terminal
BIDI = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}  # these reorder the text around them
Array = npt.NDArray[Any]


def clean(value: Any) -> Any:
    """A JSON-like value made safe to show: no control or bidi-override characters, no NaN or infinity (None instead)."""
    if isinstance(value, str):
        return "".join(REPLACEMENT if unicodedata.category(c) in CONTROL or c in BIDI else c for c in value)
    if isinstance(value, Mapping):
        return {clean(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [clean(item) for item in value]
    if isinstance(value, np.generic):
        return clean(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float):
        return value
    return clean(str(value))


@dataclass(frozen=True)
class Answers:
    """What a model answered on the test part, rows in ascending order.

    Attributes:
        row: [N] int64.
        label: [N] int64.
        answer: [N] int64, top-1 (the first class wins a tie).
        classes: Number of classes.
    """

    row: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    answer: npt.NDArray[np.int64]
    classes: int

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """[N] bool."""
        return np.asarray(self.answer == self.label)

    def shared(self, other: Answers) -> tuple[Answers, Answers]:
        """Both, cut to the rows that both answered; whether those are the same images is `same_images`."""
        _, mine, theirs = np.intersect1d(self.row, other.row, return_indices=True)
        return self._at(mine), other._at(theirs)

    def _at(self, index: npt.NDArray[np.intp]) -> Answers:
        return Answers(self.row[index], self.label[index], self.answer[index], self.classes)

    def same_images(self, other: Answers) -> bool:
        """Whether both answered exactly the same images."""
        return np.array_equal(self.row, other.row) and np.array_equal(self.label, other.label)


@dataclass(frozen=True)
class Folder:
    """An artifact and the files in it. A file that is not there is None: the step does not make it, or has not yet."""

    artifact: Artifact

    @property
    def metrics(self) -> dict[str, Any]:
        """The step's metrics, cleaned."""
        return dict(clean(self.artifact.metrics))

    @property
    def params(self) -> dict[str, Any]:
        """The step's parameters as the manifest records them, cleaned."""
        return dict(clean(self.artifact.manifest.get("params") or {}))

    def json(self, name: str) -> Any | None:
        """A JSON file, cleaned.

        Raises:
            IntegrityError: The file is not JSON.
        """
        path = self.artifact.path / name
        if not path.is_file():
            return None
        try:
            return clean(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise self._broken(name, str(error)) from error

    def arrays(self, name: str) -> dict[str, Array] | None:
        """The arrays of an .npz file.

        Raises:
            IntegrityError: The file is not an .npz, or holds pickled objects.
        """
        path = self.artifact.path / name
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise self._broken(name, str(error)) from error

    def answers(self) -> Answers | None:
        """The test part of predictions.npz.

        Raises:
            IntegrityError: The file is broken, or a label or row is impossible.
        """
        if not (self.artifact.path / predictions.FILE).is_file():
            return None
        test = predictions.load(self.artifact.path).of("test")
        if not len(test.row):
            return None
        classes = test.logits.shape[1]
        if int(test.label.min()) < 0 or int(test.label.max()) >= classes:
            raise self._broken(predictions.FILE, f"a label outside 0..{classes - 1}")
        order = np.argsort(test.row, kind="stable")
        return Answers(test.row[order], test.label[order], test.answer[order], classes)

    def size(self, *names: str) -> int | None:
        """Bytes of the first of these files that is there."""
        paths = [self.artifact.path / name for name in names]
        return next((path.stat().st_size for path in paths if path.is_file()), None)

    def made_from(self, other: Folder) -> bool:
        """Whether the manifest names the other artifact, or one with the same bytes, among its inputs."""
        entries = self.artifact.manifest["inputs"].values()
        return any(
            entry["id"] == other.artifact.id or entry.get("digest") == other.artifact.digest for entry in entries
        )

    def _broken(self, name: str, why: str) -> IntegrityError:
        return IntegrityError(
            f"{self.artifact.step} {self.artifact.id}: {name}", why, hint=f"edgekd artifacts verify {self.artifact.id}"
        )


def flat(value: Any, prefix: str = "", *, longest: int = 16) -> Iterator[tuple[str, str]]:
    """Nested JSON as (dotted name, text) rows; a list longer than `longest` gives its length only."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flat(item, f"{prefix}.{key}" if prefix else str(key), longest=longest)
    elif isinstance(value, list):
        shown = all(not isinstance(item, list | Mapping) for item in value) and len(value) <= longest
        yield prefix, ", ".join(map(str, value)) if shown else f"{len(value)} entries"
    elif value is not None:
        yield prefix, str(value)
