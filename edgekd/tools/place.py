"""Where tool environments lie, and whether one is whole.

`<root>/<name>/` is a Python environment with `edgekd-tool.json`, which is written last: without it there is none. torch of the
host is not copied: `host/` holds links to torch and its native libraries alone, and a .pth file puts that folder behind the
environment's own packages, so that no other package of the host is seen.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.errors import MissingTool
from edgekd.tools import beside, catalogue
from edgekd.tools.beside import BesideEnv
from edgekd.tools.catalogue import Tool, canonical

MARKER = "edgekd-tool.json"
SCHEMA = 1
VARIABLE = "EDGEKD_TOOLS"
# What is read of the marker of a whole environment.
KEPT: dict[str, type | tuple[type, ...]] = {"freeze": dict, "bytes": int, "torch": (dict, type(None))}


@dataclass(frozen=True)
class Env:
    """A whole environment.

    Attributes:
        tool: Whose it is.
        path: Its folder.
        marker: What was written when it was made: `python`, `pins_sha256`, `freeze`, `torch`, `bytes`.
    """

    tool: Tool
    path: Path
    marker: Mapping[str, Any]

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin" / "python"


def root() -> Path:
    """The folder of all environments: $EDGEKD_TOOLS, else below the user's data folder."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser().resolve()
    data = os.environ.get("XDG_DATA_HOME", "")
    return (Path(data) if Path(data).is_absolute() else Path.home() / ".local" / "share") / "edgekd" / "tools"


def site(path: Path) -> Path:
    """The packages of an environment."""
    return path / "lib" / f"python{catalogue.python()}" / "site-packages"


def require(name: str, where: str) -> Env | BesideEnv:
    """The whole environment of a tool; of an extra, edgekd's own Python.

    Args:
        name: The tool.
        where: The step or command that needs it, for errors.

    Raises:
        MissingTool: It is not installed, was made from other pins, or is broken: the package, what was found and expected,
            and what to type.
        RecipeError: No such tool.
    """
    if name in beside.EXTRAS:
        return beside.require(name, where)
    tool = catalogue.find(name)
    tool.require_supported()
    path = root() / name
    if not (path / MARKER).is_file():
        found = f"tool {name} is not installed" + (" whole" if path.is_dir() else "")
        raise MissingTool(where, found, f"{tool.description}", f"edgekd tools install {name}")
    wrong = fault(tool, path)
    if wrong is not None:
        raise MissingTool(where, f"tool {name} is broken: {wrong[0]}", wrong[1], repair(name))
    return Env(tool, path, read_marker(path))


def fingerprint(name: str) -> dict[str, Any]:
    """What of a tool is in the key of what it makes: its pins; of an extra, the versions that are there."""
    if name in beside.EXTRAS:
        return {"name": name, "versions": beside.EXTRAS[name].versions()}
    return {"name": name, "pins_sha256": catalogue.find(name).pins_sha256}


def repair(name: str) -> str:
    """What to type for a broken environment."""
    return beside.EXTRAS[name].repair if name in beside.EXTRAS else f"edgekd tools install {name} --force"


def read_marker(path: Path) -> dict[str, Any]:
    """The marker of an environment; empty where it is no JSON object."""
    try:
        marker = json.loads((path / MARKER).read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return {}
    return marker if isinstance(marker, dict) else {}


def fault(tool: Tool, path: Path) -> tuple[str, str] | None:
    """(what is wrong with an environment, what was expected); None: every pinned package is there in its version."""
    marker = read_marker(path)
    if marker.get("schema") != SCHEMA or any(not isinstance(marker.get(key), kind) for key, kind in KEPT.items()):
        return f"{MARKER} is not what was written", f"schema {SCHEMA}"
    if marker.get("pins_sha256") != tool.pins_sha256:
        return "it was made from other pins than this edgekd's", f"pins {tool.pins_sha256[:12]}"
    if marker.get("python") != catalogue.python() or not (path / "bin" / "python").exists():
        return f"its Python is {marker.get('python')} or gone", f"Python {catalogue.python()}"
    there = packages(site(path))
    for name, version in tool.pins().items():
        if there.get(name) != version:
            return f"package {name} {there.get(name, 'is missing')}", f"{name} {version}"
    torch = marker.get("torch") or {}
    if torch.get("from") == "host" and torch.get("version") != catalogue.torch_version():
        return f"the host's torch is {catalogue.torch_version()}", f"torch {torch.get('version')}, as when it was made"
    return None


def packages(folder: Path) -> dict[str, str]:
    """{package: version} of the packages in a folder, by the names of their metadata."""
    found = {}
    for path in folder.glob("*.dist-info"):
        name, _, version = path.name.removesuffix(".dist-info").rpartition("-")
        found[canonical(name)] = version
    return found
