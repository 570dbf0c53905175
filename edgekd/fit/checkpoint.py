"""One file an epoch, complete or absent: tensors as safetensors, the rest as JSON in its header, a digest over both. No pickle."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from edgekd.console import Console
from edgekd.durable import write_whole
from edgekd.errors import IntegrityError, StageFailed

KEPT = 2  # the newest and the one before it, which takes over when the newest is damaged
PATTERN = re.compile(r"epoch-(\d{6})\.safetensors")
HEADER_BYTES = 8  # safetensors: little-endian length of the JSON header


def save(folder: Path, epoch: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write the checkpoint of a finished epoch (counted from 1); older ones go only when it is on the disk.

    Raises:
        StageFailed: The folder cannot be written (disk full, read-only).
    """
    path = folder / f"epoch-{epoch:06d}.safetensors"
    flat = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    text = json.dumps(dict(state), sort_keys=True)
    content = save_tensors(flat, {"state": text, "sha256": _digest(flat, text)})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
        for old in _found(folder)[KEPT:]:
            old.unlink()
    except OSError as error:
        raise StageFailed(
            str(folder),
            f"checkpoint of epoch {epoch} not written: {error}",
            hint="free some space, then run again: it goes on",
        ) from error
    return path


def load(folder: Path, console: Console) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest usable checkpoint as (tensors, state); None when none was ever completed.

    Raises:
        IntegrityError: There are checkpoints and none of them can be used.
    """
    reasons: list[str] = []
    for path in _found(folder):
        try:
            return read(path)
        except IntegrityError as error:
            reasons.append(f"{path.name}: {error.found}")
            console.log(f"checkpoint {path.name} is unusable ({error.found}): going on from the one before it")
    if reasons:
        raise IntegrityError(
            str(folder),
            "no usable checkpoint: " + "; ".join(reasons),
            hint="delete this folder to train from the start",
        )
    return None


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of one checkpoint.

    Raises:
        IntegrityError: It is cut short or its bytes are not those that were written.
    """
    try:
        content = path.read_bytes()
        flat = load_tensors(content)
        length = int.from_bytes(content[:HEADER_BYTES], "little")
        metadata = json.loads(content[HEADER_BYTES : HEADER_BYTES + length])["__metadata__"]
        text, digest = metadata["state"], metadata["sha256"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(str(path), f"cut short or damaged ({error})", "a complete checkpoint") from error
    if _digest(flat, text) != digest:
        raise IntegrityError(str(path), "its digest does not fit its content", "a complete checkpoint")
    return flat, json.loads(text)


def _found(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if PATTERN.fullmatch(path.name)), reverse=True)


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    return hashlib.sha256(save_tensors(dict(tensors), {"state": text})).hexdigest()
