"""Small files of /proc and /sys under a root that may be a recorded machine's. What cannot be read is None."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Dict, Optional

if TYPE_CHECKING:
    from pathlib import Path


def text(path: Path) -> Optional[str]:
    """A file's text without the space around it; None: not there, or it refuses to be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def number(path: Path) -> Optional[int]:
    """A file that holds one integer."""
    found = text(path) or ""
    return int(found) if re.match(r"-?[0-9]{1,19}$", found) else None


def board(root: Path) -> str:
    """The board's name in the device tree; empty where there is none."""
    return (text(root / "proc/device-tree/model") or "").rstrip("\0")


def memory_mib(root: Path) -> Dict[str, float]:
    """/proc/meminfo in MiB by its own names."""
    lines = (line.split() for line in (text(root / "proc/meminfo") or "").splitlines())
    return {words[0].rstrip(":"): int(words[1]) / 1024 for words in lines if len(words) >= 2}


def differing(first: Dict[str, Any], second: Dict[str, Any]) -> Dict[str, Any]:
    """{name: (in first, in second)} of what is in either and not the same."""
    names = sorted(set(first) | set(second))
    return {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}
