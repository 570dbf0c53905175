"""Where a named checkpoint file lies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from edgekd.errors import IntegrityError, RecipeError


def find_checkpoint(
    name: str, recipe_dir: Path | None, roots: Sequence[Path], where: str = "teacher.checkpoint"
) -> Path:
    """The first of: as given, beside the recipe, `<root>/<file>`, `<root>/pretrained/<file>`.

    Raises:
        RecipeError: It is nowhere; every place looked in is listed.
    """
    looked = places(name, recipe_dir, roots)
    for place in looked:
        if place.is_file():
            return place
    listed = "".join(f"\n    {place}" for place in looked)
    raise RecipeError(
        where,
        f"file {name!r} not found; looked for:{listed}",
        "one of these files",
        "set EDGEKD_DATA or --data-root",
    )


def places(name: str, recipe_dir: Path | None, roots: Sequence[Path]) -> list[Path]:
    """Where `find_checkpoint` looks, in order."""
    path = Path(os.path.expanduser(name))  # noqa: PTH111 - Path.expanduser raises where `~name` is a file and no user
    if path.is_absolute():
        return [path]
    beside = [recipe_dir / path] if recipe_dir is not None else []
    return [path, *beside, *(place for root in roots for place in (root / path, root / "pretrained" / path))]


def require_planned(path: Path, where: str, found: str, planned: str | None) -> None:
    """Refuse a file that is not the one that the step's key names.

    Args:
        path: The file.
        where: What of the recipe names it.
        found: Its SHA-256 now, hex.
        planned: The one when the step was planned; None = the step was not.

    Raises:
        IntegrityError: They differ.
    """
    if planned is not None and found != planned:
        raise IntegrityError(
            where,
            f"{path.name} has SHA-256 {found[:12]}...",
            f"{planned[:12]}..., as when the step was planned",
            "run again if the file was meant to change",
        )
