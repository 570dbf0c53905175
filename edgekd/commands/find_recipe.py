"""Where a recipe is: the user's own path first, then the shipped ones by name."""

from __future__ import annotations

from pathlib import Path

from edgekd import profiles
from edgekd.errors import RecipeError, nearest


def shipped_recipes() -> dict[str, Path]:
    """{name: file} of the shipped recipes."""
    return {path.stem: path for path in sorted(profiles.shipped("recipes").glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """The file of a recipe given as a path, a shipped name, or `recipes/<shipped name>.yaml`.

    Raises:
        RecipeError: Neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = shipped_recipes()
    if path.parent in (Path(), Path("recipes")) and path.stem in known and path.suffix in ("", ".yaml"):
        return known[path.stem]
    found = "is a folder" if path.is_dir() else "no such file"
    raise RecipeError(f"--recipe {name}", found, nearest(path.stem, known), "edgekd recipes ls")
