"""bundle.json: what a run is asked to do and on which bytes.

A bundle is a folder of plain files and `bundle.json`:

    schema_version  1
    model           file name of the model
    runtime         engine: a file of `edgekd/runner/runtimes`
    provider        what the engine must run on (`CPUExecutionProvider`); another one voids the measurement
    threads         int >= 1
    profile         `smoke` or `quick`
    mean, std       [C] each: the network's input is (image / 255 - mean) / std
    labels          [classes] names
    images          uint8 [N, H, W, C] .npy; a file name, or an absolute path outside the bundle
    labels_file     int64 [N] .npy, likewise
    rows            int64 [n] .npy: the rows of `images` to be answered, likewise
    golden          .npz of `images` uint8 [g, H, W, C] and `logits` float32 [g, classes] that the model must reproduce
    tolerance       largest error of a golden logit / range of the golden logits
    batch           images in one batch of the throughput and accuracy passes
    files           {file name or absolute path: SHA-256}: every file above, and nothing else may lie in the folder
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Dict, Tuple

from edgekd.runner.failure import INTEGRITY, USAGE, RunnerError

FILE = "bundle.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Bundle:
    """A bundle.json that holds what its schema says."""

    folder: Path
    model: str
    runtime: str
    provider: str
    threads: int
    profile: str
    mean: Tuple[float, ...]
    std: Tuple[float, ...]
    labels: Tuple[str, ...]
    images: str
    labels_file: str
    rows: str
    golden: str
    tolerance: float
    batch: int
    files: Dict[str, str]

    def path(self, name: str) -> Path:
        """Where a file of the bundle lies; an absolute path stays as it is."""
        return self.folder / name

    @property
    def named(self) -> Tuple[str, ...]:
        """The files that the keys name."""
        return (self.model, self.images, self.labels_file, self.rows, self.golden)


def read(folder: Path) -> Bundle:
    """The bundle in a folder.

    Raises:
        RunnerError: 2: no such folder, or a key is missing, unknown or ill-typed; 6: not JSON.
    """
    path = folder / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunnerError(USAGE, str(path), error.strerror or str(error), "a bundle folder") from error
    except ValueError as error:
        raise RunnerError(INTEGRITY, str(path), "not JSON: {}".format(error), "a whole bundle.json") from error
    if not isinstance(data, dict) or data.pop("schema_version", None) != SCHEMA_VERSION:
        raise RunnerError(USAGE, FILE, "another schema_version", str(SCHEMA_VERSION), "use the runner that made it")
    known = {field.name for field in fields(Bundle)} - {"folder"}
    for name in sorted(set(data) ^ known):
        raise RunnerError(USAGE, "{}: {}".format(FILE, name), "unknown key" if name in data else "missing")
    for name, value in data.items():
        _check(name, value)
    for name in ("mean", "std", "labels"):
        data[name] = tuple(data[name])
    bundle = Bundle(folder=folder, **data)
    if len(bundle.mean) != len(bundle.std):
        raise RunnerError(USAGE, FILE + ": std", "{} values".format(len(bundle.std)), "as many as mean")
    for name in bundle.files:
        if name == FILE or (not Path(name).is_absolute() and Path(name).name != name):
            raise RunnerError(USAGE, FILE + ": files", repr(name), "a file name or an absolute path")
    for name in bundle.named:
        if name not in bundle.files:
            raise RunnerError(
                INTEGRITY, "{}: files".format(FILE), "no SHA-256 of {!r}".format(name), "one for each file"
            )
    return bundle


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check(name: str, value: Any) -> None:
    """Raise unless the value has the type that the schema gives its key."""
    if name in ("threads", "batch"):
        right, expected = isinstance(value, int) and not isinstance(value, bool) and value >= 1, "an int >= 1"
    elif name == "tolerance":
        right, expected = _number(value) and value >= 0, "a number >= 0"
    elif name in ("mean", "std"):
        right = isinstance(value, list) and len(value) >= 1 and all(_number(item) for item in value)
        right, expected = right and (name == "mean" or min(value) > 0), "a list of numbers (std: > 0)"
    elif name == "labels":
        right = isinstance(value, list) and len(value) >= 2 and all(isinstance(item, str) for item in value)
        expected = "a list of at least two names"
    elif name == "files":
        right = isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
        expected = "{file: SHA-256}"
    else:
        right, expected = isinstance(value, str) and bool(value), "text"
    if not right:
        raise RunnerError(USAGE, "{}: {}".format(FILE, name), repr(value)[:80], expected)
