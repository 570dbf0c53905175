"""Tools that need no environment of their own: extras, whose packages stand beside edgekd's and whose workers run in its Python."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from edgekd.errors import MissingTool


@dataclass(frozen=True)
class Extra:
    """One of them.

    Attributes:
        name: Of the tool, and of the extra.
        packages: {module: the package that gives it}.
        description: What it is.
        licence: Of what is installed.
    """

    name: str
    packages: tuple[tuple[str, str], ...]
    description: str
    licence: str

    @property
    def repair(self) -> str:
        """What to type for one that is not there."""
        return f"pip install 'edgekd[{self.name}]'"

    def versions(self) -> dict[str, str | None]:
        """{package: version}; None where it is not installed. Nothing is imported."""
        return {package: version(module, package) for module, package in self.packages}


EXTRAS = {
    extra.name: extra
    for extra in (
        Extra("openvino", (("openvino", "openvino"),), "Intel CPUs, GPUs and NPUs (200 MB)", "Apache-2.0"),
        Extra(
            "qnn",
            (("onnxruntime_qnn", "onnxruntime-qnn"), ("onnxruntime", "onnxruntime")),  # it plugs into the second
            "Qualcomm Hexagon: compiler, and its emulator on x86 (500 MB)",
            "MIT; the QNN libraries inside under Qualcomm's own",
        ),
    )
}


@dataclass(frozen=True)
class BesideEnv:
    """edgekd's own Python, in the place of an environment."""

    tool: Extra

    @property
    def python(self) -> Path:
        """The interpreter."""
        return Path(sys.executable)


def require(name: str, where: str) -> BesideEnv:
    """edgekd's own Python, where an extra is installed there.

    Raises:
        MissingTool: A package of it is not.
    """
    extra = EXTRAS[name]
    for package, version in extra.versions().items():
        if version is None:
            raise MissingTool(where, f"{package} is not installed", extra.description, extra.repair)
    return BesideEnv(extra)


def version(module: str, package: str) -> str | None:
    """Version of a package beside edgekd, not imported; a mere folder of a module's name is none."""
    if util.find_spec(module) is None:
        return None
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
