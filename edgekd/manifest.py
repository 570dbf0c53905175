"""The facts of a manifest beside ids and hashes, and what differs between two."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from edgekd import __version__
from edgekd.artifact import Artifact, canonical
from edgekd.artifact import material as artifact_material
from edgekd.recipe import Recipe
from edgekd.runner import state

PACKAGES = ("torch", "torchvision", "onnx", "onnxruntime", "onnxsim", "onnxscript", "numpy", "pyarrow", "pillow")
ABSENT = "absent"


def facts(
    recipe: Recipe,
    material: Mapping[str, Any],
    inputs: Mapping[str, Artifact],
    metrics: Mapping[str, Any],
    seconds: float,
    threads: int,
) -> dict[str, Any]:
    """Everything that a manifest says beside step, key, digest and files."""
    return {
        **material,
        "inputs": {role: {"id": a.id, "step": a.step, "key": a.key, "digest": a.digest} for role, a in inputs.items()},
        "metrics": dict(metrics),
        "test_touches": 1 if "top1_percent" in metrics else 0,
        "recipe": _portable(recipe),
        "seed": material.get("params", {}).get("seed", recipe.seed),
        "threads": threads,
        "duration_s": round(seconds, 3),
        "sealed_at": datetime.now(UTC).isoformat(),
        "versions": versions(),
        "source": source(),
        "host": host(),
    }


def host() -> dict[str, str]:
    """This machine."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": state.processor(),
        "name": platform.node(),
    }


@dataclass(frozen=True)
class Change:
    """One thing in which the key material of two artifacts differs.

    Attributes:
        name: Dotted: `params.fit.lr`, `inputs.teacher`, `plugin.version`, `environment.device`.
        before: The old value; ABSENT where there was none.
        after: The new one, likewise.
    """

    name: str
    before: Any
    after: Any

    @property
    def text(self) -> str:
        """`fit.lr: 0.1 -> 0.05`."""
        return f"{self.name.removeprefix('params.')}: {self.before} -> {self.after}"


def difference(before: Mapping[str, Any], material: Mapping[str, Any]) -> str:
    """The first three things in which new key material differs from an older manifest, in words."""
    changed = [change.text for change in changes(artifact_material(before), material)]
    if not changed:
        return ""
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return ", ".join(changed[:3]) + more


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Everything in which two sets of key material differ, by name; of an input's digest the first letters are said."""
    old, new = _said(before), _said(after)
    return [
        Change(name, old.get(name, ABSENT), new.get(name, ABSENT))
        for name in sorted({*old, *new})
        if old.get(name, ...) != new.get(name, ...)
    ]


def _said(material: Mapping[str, Any]) -> dict[str, Any]:
    own = dict(flat({name: material.get(name) for name in ("version", "params", "plugin", "environment")}))
    return own | {f"inputs.{role}": digest[:8] for role, digest in material["inputs"].items()}


def _portable(recipe: Recipe) -> dict[str, Any]:
    """The recipe without machine paths: of an absolute path only the last part is kept."""
    values = recipe.model_dump(mode="json")
    for section, key in (
        ("data", "path"),
        ("teacher", "checkpoint"),
        ("teacher", "weights"),
        ("student", "checkpoint"),
        ("student", "onnx"),
    ):
        text = (values.get(section) or {}).get(key)
        if isinstance(text, str) and Path(text).is_absolute():
            values[section][key] = Path(text).name
    return values


@cache
def versions() -> dict[str, str]:
    """Versions of Python, edgekd and the packages that results hang on, without importing them."""
    found = {"python": platform.python_version(), "edgekd": __version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


@cache
def source() -> dict[str, str]:
    """SHA-256 over edgekd's own source files, and the git commit when they lie in a checkout."""
    package = Path(__file__).resolve().parent
    files = {
        p.relative_to(package).as_posix(): sha256(p.read_bytes()).hexdigest() for p in sorted(package.rglob("*.py"))
    }
    found = {"sha256": sha256(canonical(files)).hexdigest()}
    if (package.parent / ".git").exists() and shutil.which("git") is not None:
        commit = subprocess.run(
            ["git", "-C", str(package.parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
        if commit.returncode == 0:
            found["commit"] = commit.stdout.strip()
    return found


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of nested mappings; a list is one value."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
