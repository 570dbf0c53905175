"""Answers about a user's own images: `predict` for files and folders, `serve-stdin` for whoever asks line by line.

A request is a line of JSON: {"path": FILE}, {"image": base64 of an image file's bytes}, or {"pixels": base64 of uint8, "shape":
[H, W, C]}; `id`, if given, comes back. An answer is a line of JSON: label, probability, logits, probabilities, ms, decode_ms; or
{"error": {...}}, after which the next request is read.
"""

from __future__ import annotations

import base64
import json
import math
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Callable, Dict, List, Sequence

import numpy as np

from edgekd.runner import decode, image, loaded, resize
from edgekd.runner.bundle import REAL, Bundle
from edgekd.runner.failure import INTEGRITY, STAGE_FAILED, USAGE, RunnerError
from edgekd.runner.loaded import Loaded

if TYPE_CHECKING:
    import numpy.typing as npt

    Say = Callable[[Dict[str, Any]], None]

REQUEST = '{"path": FILE}, {"image": BASE64} or {"pixels": BASE64, "shape": [H, W, C]}'
LONGEST_LINE = 1 << 28  # characters of a request: 192 MiB of image


def predict(bundle: Bundle, paths: Sequence[Path], say: Say) -> None:
    """Answer every image, one line each; one that cannot be read does not hold up the others.

    Raises:
        RunnerError: 2: no such image; 3: the golden images are answered otherwise. Of the first image without an answer, once the
            others have theirs: 5: its format needs a package; 6: it is damaged.
    """
    files = decode.files(paths)
    model = _checked(bundle)
    failed: List[RunnerError] = []
    for file in files:
        begun = time.perf_counter_ns()
        try:
            pixels = _fitted(model, decode.decode(_content(str(file)), str(file), len(bundle.mean)))
        except RunnerError as error:
            failed.append(error)
            say({"file": str(file), "error": error.fields()})
            continue
        say({"file": str(file), **_answer(model, pixels, begun)})
    model.runtime.close()
    if failed:
        raise failed[0]


def serve(bundle: Bundle, asked: IO[str], say: Say) -> None:
    """Answer requests until there are no more."""
    model = _checked(bundle)
    for line in iter(lambda: asked.readline(LONGEST_LINE), ""):
        if line.strip():
            say(_reply(model, line))
    model.runtime.close()


def _checked(bundle: Bundle) -> Loaded:
    model = loaded.load(bundle)
    model.golden()
    return model


def _reply(model: Loaded, line: str) -> Dict[str, Any]:
    """The answer to one request; what is wrong with it is an answer too."""
    name: Dict[str, Any] = {}
    try:
        request = _request(line)
        name = {"id": request["id"]} if "id" in request else {}
        begun = time.perf_counter_ns()
        return {**name, **_answer(model, _fitted(model, _pixels(model, request)), begun)}
    except RunnerError as error:
        failure = error
    except MemoryError:
        failure = RunnerError(STAGE_FAILED, "request", "out of memory", "memory for the image")
    except OSError as error:
        failure = RunnerError(USAGE, str(error.filename or "request"), error.strerror or str(error), "an image")
    return {**name, "error": failure.fields()}


def _request(line: str) -> Dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RunnerError(USAGE, "request", "not JSON: {}".format(error), REQUEST) from error
    if not isinstance(request, dict) or len({"path", "image", "pixels"} & set(request)) != 1:
        raise RunnerError(USAGE, "request", repr(request)[:80], REQUEST)
    return request


def _pixels(model: Loaded, request: Dict[str, Any]) -> npt.NDArray[np.uint8]:
    channels = len(model.bundle.mean)
    if "path" in request:
        return decode.decode(_content(str(request["path"])), str(request["path"]), channels)
    if "image" in request:
        return decode.decode(_bytes(request, "image"), "request: image", channels)
    values, shape = _bytes(request, "pixels"), request.get("shape", [])
    if not _is_shape(shape) or math.prod(shape) != len(values):
        found = "{} bytes, shape {!r}".format(len(values), shape)
        raise RunnerError(USAGE, "request: pixels", found[:80], "H * W * C bytes and shape [H, W, C], C 1 or 3")
    return decode.colours(np.frombuffer(values, np.uint8).reshape(shape), channels)


def _content(name: str) -> bytes:
    """A file's bytes; a pipe or a device would be read without end."""
    try:
        if Path(name).exists() and not Path(name).is_file():
            raise RunnerError(USAGE, name, "no plain file", "an image")
        return Path(name).read_bytes()
    except ValueError as error:  # a name that no file can have
        raise RunnerError(USAGE, "request: path", "{!r}: {}".format(name[:80], error), "a file") from error


def _is_shape(shape: Any) -> bool:
    right = isinstance(shape, list) and len(shape) == 3 and all(type(side) is int and side > 0 for side in shape)
    return right and shape[2] in (1, 3) and not decode.too_large(shape[1], shape[0])


def _bytes(request: Dict[str, Any], key: str) -> bytes:
    try:
        return base64.b64decode(str(request[key]), validate=True)
    except ValueError as error:
        raise RunnerError(INTEGRITY, "request: " + key, "not base64: {}".format(error), "base64") from error


def _fitted(model: Loaded, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """[1, H, W, C] of the network's size."""
    return resize.fit(pixels, model.bundle.size, model.bundle.resize)[None]


def _answer(model: Loaded, pixels: npt.NDArray[np.uint8], begun: int) -> Dict[str, Any]:
    decoded = time.perf_counter_ns()
    logits = model.answer(pixels)
    (best,), (shares,) = image.conclude(logits)
    answered = time.perf_counter_ns()
    if not np.isfinite(logits).all():
        raise RunnerError(INTEGRITY, model.bundle.model, "gives values that are no numbers", "finite logits")
    prefix = "" if model.kind in REAL else model.kind + "_"  # such a time is no latency
    return {
        "label": model.bundle.labels[int(best)],
        "probability": float(shares[best]),
        "probabilities": {label: float(share) for label, share in zip(model.bundle.labels, shares)},
        "logits": [float(value) for value in logits[0]],
        prefix + "ms": (answered - decoded) / 1e6,
        prefix + "decode_ms": (decoded - begun) / 1e6,
    }
