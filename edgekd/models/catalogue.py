"""Networks of other packages by name, `torchvision:<name>` and `timm:<name>`, read from their sources without importing them."""

from __future__ import annotations

import re
from functools import cache
from importlib import util
from pathlib import Path

from edgekd.errors import MissingTool, RecipeError, nearest

INSTALL = {"torchvision": "pip install torchvision", "timm": "pip install 'edgekd[timm]'"}


def is_foreign(model: str) -> bool:
    """Whether a model's name is one of another package."""
    return ":" in model


def describe() -> list[tuple[str, str]]:
    """(form of the names, what they are) of each package, whether or not it is installed."""
    rows = []
    for package, install in INSTALL.items():
        there = util.find_spec(package) is not None
        told = f"{len(architectures(package))} networks of {package}" if there else ""
        rows.append((f"{package}:<name>", told or f"networks of {package}; not installed: {install}"))
    return rows


def split(model: str, where: str = "model") -> tuple[str, str]:
    """(package, architecture) of a foreign name that exists here.

    Raises:
        RecipeError: No such package or architecture; says the nearest name.
        MissingTool: The package is not installed.
    """
    package, _, architecture = model.partition(":")
    if package not in INSTALL:
        raise RecipeError(where, f"unknown name {model!r}", "torchvision:<name> or timm:<name>", "edgekd models")
    known = architectures(package, where)
    if architecture not in known:
        raise RecipeError(
            where,
            f"{package} has no classification network {architecture!r}",
            f"one of its {len(known)}" + (", without a tag (teacher.weights)" if "." in architecture else ""),
            _near(package, architecture, known),
        )
    return package, architecture


@cache
def architectures(package: str, where: str = "model") -> tuple[str, ...]:
    """Every classification network that the installed package registers, sorted.

    Raises:
        MissingTool: It is not installed.
    """
    names = []
    for path in sources(package, where):
        decorator = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("@register_model"):
                decorator = line
            elif decorator and line.startswith("def "):
                given = re.search(r'name="(\w+)"', decorator)
                names.append(given.group(1) if given else line[4:].partition("(")[0])
                decorator = ""
    return tuple(sorted(names))


def sources(package: str, where: str = "model") -> list[Path]:
    """The files in which the installed package defines its classification networks.

    Raises:
        MissingTool: It is not installed.
    """
    spec = util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingTool(where, f"package {package} is not installed", "the package", INSTALL[package])
    return sorted((Path(spec.submodule_search_locations[0]) / "models").glob("*.py"))


def _near(package: str, architecture: str, known: tuple[str, ...]) -> str:
    told = nearest(architecture, known)
    return told.replace("'", f"'{package}:", 1) if told.startswith("did") else f"{package}:resnet18"
