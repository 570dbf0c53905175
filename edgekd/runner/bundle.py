"""bundle.json: what a run is asked to do and on which bytes.

A bundle is a folder of plain files and `bundle.json`:

    schema_version  2
    kind            `bench`: with test images; `deploy`: without `images`, `labels_file` and `rows`
    target          name of the profile that the model was exported for
    lineage         {step: key} of what the model was made from
    model           file name of the model; what it loads beside itself is in `files`
    precision       `fp32`, `fp16` or `int8`, as the model computes
    runtime         engine: a file of `edgekd/runner/runtimes`
    provider        what the engine must run on (`CPUExecutionProvider`); another one voids the measurement
    options         {name: value} of the engine
    threads         int >= 1
    profile         `smoke`, `quick` or `mlperf`
    device_kind     what the device is: `this CPU`, `this accelerator` (a GPU or NPU of the same machine), `board`, or `emulated`,
                    whose times are no latencies
    probes          {power: {...}}: what else is measured while queries run, and how
    mean, std       [C] each: the network's input is (image / 255 - mean) / std
    size            [height, width] of the network's input in pixels
    resize          how an image of another size gets there: `fit-crop`, `squash` or `photo`
    labels          [classes] names
    images          uint8 [N, H, W, C] .npy; a file name, or an absolute path outside the bundle
    labels_file     int64 [N] .npy, likewise
    rows            int64 [n] .npy: the rows of `images` to be answered, likewise
    golden          .npz of `images` uint8 [g, H, W, C] and `logits` float32 [g, classes] that the model must reproduce
    tolerance       largest error of a golden logit / range of the golden logits
    batch           images in one batch of the throughput and accuracy passes
    files           {file name or absolute path: SHA-256}: every file above, and nothing else may lie in the folder

Beside it may lie `bundle.sig`: the ed25519 signature of the bytes of bundle.json, in hex. The key is the user's, never the
bundle's.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from edgekd.runner import signature
from edgekd.runner.failure import INTEGRITY, USAGE, RunnerError

FILE, SIGNATURE = "bundle.json", "bundle.sig"
SCHEMA_VERSION = 2
REAL = ("this CPU", "this accelerator", "board")  # kinds whose times are latencies
DATA = ("images", "labels_file", "rows")  # what a deployment bundle has not
CHOICES = {
    "kind": ("bench", "deploy"),
    "resize": ("fit-crop", "squash", "photo"),
    "device_kind": (*REAL, "emulated"),
    "precision": ("fp32", "fp16", "int8"),
}


@dataclass(frozen=True)
class Bundle:
    """A bundle.json that holds what its schema says; `digest` is the SHA-256 of its bytes."""

    folder: Path
    digest: str
    kind: str
    target: str
    lineage: Dict[str, str]
    model: str
    precision: str
    runtime: str
    provider: str
    options: Dict[str, Any]
    threads: int
    profile: str
    device_kind: str
    probes: Dict[str, Any]
    mean: Tuple[float, ...]
    std: Tuple[float, ...]
    size: Tuple[int, int]
    resize: str
    labels: Tuple[str, ...]
    golden: str
    tolerance: float
    batch: int
    files: Dict[str, str]
    images: str = ""
    labels_file: str = ""
    rows: str = ""

    def path(self, name: str) -> Path:
        """Where a file of the bundle lies; an absolute path stays as it is."""
        return self.folder / name

    @property
    def named(self) -> Tuple[str, ...]:
        """The files that the keys name."""
        return tuple(name for name in (self.model, self.golden, self.images, self.labels_file, self.rows) if name)


def read(folder: Path, public_key: Optional[bytes] = None) -> Bundle:
    """The bundle in a folder; with a public key its signature is checked before a byte of it is understood.

    Raises:
        RunnerError: 2: no such folder, or a key is missing, unknown or ill-typed; 6: not JSON, a key twice, or not signed by
            that key.
    """
    path = folder / FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunnerError(USAGE, str(path), error.strerror or str(error), "a bundle folder") from error
    if public_key is not None:
        signature.check(folder / SIGNATURE, content, public_key)
    try:
        data = json.loads(content.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise RunnerError(INTEGRITY, str(path), "not JSON: {}".format(error), "a whole bundle.json") from error
    if not isinstance(data, dict) or data.pop("schema_version", None) != SCHEMA_VERSION:
        raise RunnerError(USAGE, FILE, "another schema_version", str(SCHEMA_VERSION), "use the runner that made it")
    _check_keys(data)
    for name in ("mean", "std", "labels", "size"):
        data[name] = tuple(data[name])
    bundle = Bundle(folder=folder, digest=hashlib.sha256(content).hexdigest(), **data)
    _check_files(bundle)
    return bundle


def _check_keys(data: Dict[str, Any]) -> None:
    known = {field.name for field in fields(Bundle)} - {"folder", "digest"}
    if data.get("kind") == "deploy":
        known -= set(DATA)
    for name in sorted(set(data) ^ known):
        raise RunnerError(USAGE, "{}: {}".format(FILE, name), "unknown key" if name in data else "missing")
    for name, value in data.items():
        right, expected = _judge(name, value)
        if not right:
            raise RunnerError(USAGE, "{}: {}".format(FILE, name), repr(value)[:80], expected)


def _check_files(bundle: Bundle) -> None:
    if len(bundle.mean) != len(bundle.std):
        raise RunnerError(USAGE, FILE + ": std", "{} values".format(len(bundle.std)), "as many as mean")
    for name in bundle.files:
        plain = Path(name).is_absolute() or (Path(name).name == name and name not in ("", ".."))
        if name in (FILE, SIGNATURE) or not plain or not name.isprintable():
            raise RunnerError(USAGE, FILE + ": files", repr(name), "a file name or an absolute path")
    for name in bundle.named:
        if name not in bundle.files:
            found = "no SHA-256 of {!r}".format(name)
            raise RunnerError(INTEGRITY, "{}: files".format(FILE), found, "one for each file")


def _once(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    """A JSON object; another reader might take the other of two values of one key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _no_number(word: str) -> float:
    raise ValueError("{} is no number of JSON".format(word))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _judge(name: str, value: Any) -> Tuple[bool, str]:
    """Whether the value has the type that the schema gives its key, and what that is."""
    if name in CHOICES:
        return value in CHOICES[name], "one of: " + ", ".join(CHOICES[name])
    if name in ("threads", "batch"):
        return _count(value), "an int >= 1"
    if name == "tolerance":
        return _number(value) and value >= 0, "a number >= 0"
    if name in ("mean", "std"):
        right = isinstance(value, list) and len(value) in (1, 3) and all(_number(item) for item in value)
        return right and (name == "mean" or min(value) > 0), "a list of 1 or 3 numbers (std: > 0)"
    if name == "size":
        return isinstance(value, list) and len(value) == 2 and all(_count(item) for item in value), "[height, width]"
    if name == "labels":
        right = isinstance(value, list) and len(value) >= 2 and all(isinstance(item, str) for item in value)
        return right, "a list of at least two names"
    if name in ("files", "lineage"):
        return isinstance(value, dict) and all(isinstance(item, str) for item in value.values()), "{name: text}"
    if name in ("options", "probes"):
        return isinstance(value, dict), "a mapping"
    return isinstance(value, str) and bool(value), "text"
