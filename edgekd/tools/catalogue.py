"""Which tools there are: `pins/<name>.yaml` says what one is and where it was seen to work, `pins/<name>.txt` pins every package."""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from importlib import metadata, util
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from edgekd import yamlsource
from edgekd.errors import MissingTool, RecipeError, nearest
from edgekd.tools import beside

PINS = Path(__file__).with_name("pins")
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([A-Za-z0-9.+!_-]+)")


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Torch(_Facts):
    """Which torch a tool works with. The host's is linked where it lies in the range; else `own` is installed.

    Attributes:
        least: First version that was seen to work, `major.minor`.
        below: First version that was not tried, `major.minor`.
        own: What is installed where the host has none of the range.
        own_mib: What that takes.
    """

    least: str
    below: str
    own: str
    own_mib: int

    def takes(self, version: str) -> bool:
        """Whether a version lies in the range."""
        return _release(self.least) <= _release(version) < _release(self.below)


class Tool(_Facts):
    """One tool environment.

    Attributes:
        python: Versions (`major.minor`) that the pins are hashed for.
        platforms: `system-machine` that they are hashed for.
        imports: Modules that must load in a new environment before it counts as installed.
        download_mib: What is fetched at most, torch aside.
        installed_mib: What it takes on disk, torch aside.
    """

    name: str
    description: str
    licence: str
    source: str
    python: list[str]
    platforms: list[str]
    imports: list[str]
    download_mib: int
    installed_mib: int
    torch: Torch | None = None

    @property
    def requirements(self) -> Path:
        """The pins, as pip reads them."""
        return PINS / f"{self.name}.txt"

    @property
    def pins_sha256(self) -> str:
        """SHA-256 of the pins: an environment made from others is not this one."""
        return hashlib.sha256(self.requirements.read_bytes()).hexdigest()

    def pins(self) -> dict[str, str]:
        """{package: version}, names as `canonical` spells them."""
        lines = (PIN.match(line) for line in self.requirements.read_text(encoding="utf-8").splitlines())
        return {canonical(found.group(1)): found.group(2) for found in lines if found}

    def require_supported(self) -> None:
        """Nothing, where the pins are meant for this Python and machine.

        Raises:
            MissingTool: They are not; nothing has been fetched.
        """
        where = f"tool {self.name}"
        if here() not in self.platforms:
            raise MissingTool(where, f"is not pinned for {here()}", "one of: " + ", ".join(self.platforms))
        if python() not in self.python:
            known = ", ".join(self.python)
            hint = f"install edgekd in a Python {self.python[-1]}"
            raise MissingTool(where, f"is not pinned for Python {python()}", f"Python {known}", hint)

    def host_torch(self) -> str | None:
        """Version of the torch beside edgekd, where this tool takes it; None: it brings its own, or needs none."""
        version = torch_version()
        return version if self.torch is not None and version is not None and self.torch.takes(version) else None


def tools() -> dict[str, Tool]:
    """All tools by name."""
    return {path.stem: _read(path) for path in sorted(PINS.glob("*.yaml"))}


def find(name: str) -> Tool:
    """One tool.

    Raises:
        RecipeError: There is none of that name.
    """
    known = tools()
    if name in beside.EXTRAS:
        raise RecipeError(
            f"tool {name}", "is an extra of edgekd, no environment", ", ".join(known), beside.EXTRAS[name].repair
        )
    if name not in known:
        raise RecipeError(f"tool {name}", "unknown name", nearest(name, known), "edgekd tools ls")
    return known[name]


def here() -> str:
    """This machine as `platforms` names it."""
    return f"{sys.platform}-{platform.machine().lower()}"


def python() -> str:
    """This Python as `python` names it."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def torch_version() -> str | None:
    """Version of the torch beside edgekd, not imported; None: there is none."""
    if util.find_spec("torch") is None:
        return None
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def canonical(name: str) -> str:
    """A package's name in the one spelling of the packaging specifications."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _release(version: str) -> tuple[int, ...]:
    """(major, minor)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _read(path: Path) -> Tool:
    source = yamlsource.read(path)
    try:
        return Tool.model_validate(source.data)
    except ValidationError as error:
        item = error.errors()[0]
        raise RecipeError(source.place(tuple(item["loc"])), str(item["msg"]), "the facts of a tool") from error
