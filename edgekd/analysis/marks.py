"""What the gate said of an artifact when it was last held to one: `gates/` of the workspace, beside the sealed folders.

A mark is for people and listings; it decides nothing. Every run holds its files to the gate anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd import records
from edgekd.artifact import ID, canonical
from edgekd.durable import inside, write_whole
from edgekd.errors import IntegrityError

FOLDER = "gates"


def write(workspace: Path, artifact: str, verdict: Mapping[str, Any]) -> None:
    """Keep the verdict on an artifact; the one before it is replaced, and an equal one is left as it is."""
    path = _path(workspace, artifact)
    text = canonical(verdict)
    if not path.is_file() or path.read_bytes() != text:
        write_whole(path, text)


def read(workspace: Path, artifact: str) -> dict[str, Any] | None:
    """The verdict kept, or None.

    Raises:
        IntegrityError: The mark is damaged.
    """
    path = _path(workspace, artifact)
    if not path.exists() and not path.is_symlink():
        return None
    hint = f"remove {path}: the next run writes it anew"
    found = records.read_json(path, str(path), hint)
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("passed"), bool)
        or not isinstance(found.get("text"), str)
    ):
        raise IntegrityError(str(path), f"is damaged ({json.dumps(found)[:80]})", "a gate's verdict", hint)
    return found


def drop(workspace: Path, artifact: str) -> None:
    """Forget an artifact that was removed."""
    _path(workspace, artifact).unlink(missing_ok=True)


def _path(workspace: Path, artifact: str) -> Path:
    assert ID.fullmatch(artifact), artifact
    return inside(workspace, workspace / FOLDER) / f"{artifact.replace('/', '~')}.json"
