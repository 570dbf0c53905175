"""Small files that anyone may have edited (manifests, run records, tags): read within bounds, or named as damaged."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from edgekd.errors import IntegrityError

MAX_BYTES = 4 << 20  # a manifest has some 5 KiB
MAX_DEPTH = 64
MAX_INTEGER = 2**63  # a larger one is no count of anything here, and no float either


def read_text(path: Path, where: str, hint: str = "") -> str:
    """The text of a regular file of at most MAX_BYTES, in UTF-8; a symbolic link is not followed.

    Args:
        path: The file.
        where: How errors name it.
        hint: What errors say to type.

    Raises:
        IntegrityError: It is not there, or anything else than that.
    """
    try:
        raw = _bytes(path)
    except OSError as error:
        found = "is a symbolic link" if error.errno == errno.ELOOP else f"cannot be read ({error.strerror})"
        raise IntegrityError(where, found, "a file of the workspace itself", hint) from error
    if raw is None or len(raw) > MAX_BYTES:
        found = "is no file" if raw is None else f"has more than {MAX_BYTES} bytes"
        raise IntegrityError(where, found, "a small text file", hint)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise IntegrityError(where, f"is damaged (no UTF-8 at byte {error.start})", "a text file", hint) from error


def read_json(path: Path, where: str, hint: str = "") -> Any:
    """Plain JSON: finite numbers, whole characters, at most MAX_DEPTH deep; see `read_text`.

    Raises:
        IntegrityError: As `read_text`, or it is not such JSON.
    """
    text = read_text(path, where, hint)
    try:
        value = json.loads(text, parse_constant=_not_finite)
        problem = next(_problems(value), "")
    except RecursionError:
        problem = "nested too deep"
    except ValueError as error:
        problem = str(error)
    if problem:
        raise IntegrityError(where, f"is damaged ({problem})", "plain JSON", hint)
    return value


def _bytes(path: Path) -> bytes | None:
    """The first MAX_BYTES + 1 bytes of a regular file, else None. A pipe is not waited for."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        return file.read(MAX_BYTES + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def _not_finite(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _problems(value: Any) -> Iterator[str]:
    waiting = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if depth > MAX_DEPTH:
            yield "nested too deep"
        elif isinstance(item, dict):
            waiting += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            waiting += [(part, depth + 1) for part in item]
        elif isinstance(item, str) and any("\ud800" <= letter <= "\udfff" for letter in item):
            yield "half a character in a text"
        elif isinstance(item, int) and abs(item) >= MAX_INTEGER:
            yield "an integer beyond 64 bits"
        elif isinstance(item, float) and not math.isfinite(item):
            yield "a number beyond all bounds"
