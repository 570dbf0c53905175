"""Device and Target: the data classes of `devices/*.yaml` and `export/*.yaml`, and where such files are found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from edgekd import yamlsource
from edgekd.errors import MissingTool, RecipeError, nearest


class Profile(BaseModel):
    """Base of both kinds: frozen, unknown keys forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    family: str
    description: str = ""


class Target(Profile):
    """What to export into: `export/<name>.yaml`."""

    exporter: str
    scheme: str
    runtimes: list[str]
    parity: dict[str, float] = {}
    needs: list[str] = []
    args: dict[str, Any] = {}


class Device(Profile):
    """What to run on: `devices/<name>.yaml`; each fact has its source."""

    transport: str
    runtimes: dict[str, dict[str, Any]]
    precisions: list[str]
    sources: dict[str, str] = {}


P = TypeVar("P", bound=Profile)


def shipped(folder: str) -> Path:
    """The folder of shipped `recipes`, `export` or `devices`: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "_shipped" / folder, package.parent / folder):
        if candidate.is_dir():
            return candidate
    raise MissingTool(
        folder, "the shipped files are not there", "a whole edgekd", "pip install --force-reinstall edgekd"
    )


def targets() -> dict[str, Target]:
    """All shipped targets by name."""
    return {target.name: target for target in _all("export", Target)}


def devices() -> dict[str, Device]:
    """All shipped devices by name."""
    return {device.name: device for device in _all("devices", Device)}


def target(name: str, where: str = "export") -> Target:
    """One target by name, or a user's own file by path (`./my.yaml`).

    Raises:
        RecipeError: No such target.
    """
    return _one(name, where, targets(), Target)


def device(name: str, where: str = "bench.device") -> Device:
    """One device by name, or a user's own file by path.

    Raises:
        RecipeError: No such device.
    """
    return _one(name, where, devices(), Device)


def _one(name: str, where: str, known: dict[str, P], kind: type[P]) -> P:
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        return _read(Path(name), kind)
    if name not in known:
        listing = "edgekd formats" if kind is Target else "edgekd devices"
        raise RecipeError(where, f"unknown name {name!r}", nearest(name, known), listing)
    return known[name]


def _all(folder: str, kind: type[P]) -> Iterator[P]:
    for path in sorted(shipped(folder).glob("*.yaml")):
        yield _read(path, kind)


def _read(path: Path, kind: type[P]) -> P:
    source = yamlsource.read(path)
    try:
        return kind.model_validate(source.data)
    except ValidationError as error:
        item = error.errors()[0]
        place = tuple(item["loc"])
        raise RecipeError(
            source.place(place), f"{'.'.join(map(str, place))}: {item['msg']}", f"a {kind.__name__} profile"
        ) from error
