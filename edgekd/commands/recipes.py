"""`edgekd recipes ls|show|validate|schema|cp`."""

from __future__ import annotations

import json as jsonlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer
import yaml

from edgekd import recipe as recipe_module
from edgekd import registry
from edgekd.commands import WORKSPACE, current, output
from edgekd.commands.chain import data_roots, weight_caches
from edgekd.commands.find_recipe import find_recipe, shipped_recipes
from edgekd.console import Console
from edgekd.errors import UsageError
from edgekd.keys import Settings, prepare
from edgekd.pipeline import check_all, steps_of
from edgekd.recipe import Recipe
from edgekd.runner.state import usable_cores

if TYPE_CHECKING:
    from edgekd.data.base import DataSource

SECTIONS = {"data": "data", "distill": "distillers", "quantize": "quantizers"}
PLUGIN_SECTIONS = {"Data": "data", "Distill": "distillers", "Quantize": "quantizers"}


def ls(json: bool) -> None:
    """The shipped recipes with the first line of each."""
    rows = [(name, _summary(path)) for name, path in shipped_recipes().items()]
    if json:
        output.print_json({"recipes": [{"name": name, "summary": summary} for name, summary in rows]})
        return
    output.print_table(("recipe", "what it does"), rows)
    output.next_command("edgekd recipes show quickstart")


def show(name: str, overrides: list[str], json: bool) -> None:
    """A recipe with every default filled in."""
    recipe = recipe_module.load(find_recipe(name), overrides)
    steps_of(recipe)
    values = recipe.model_dump(mode="json", exclude_none=True)
    for section, group in SECTIONS.items():
        used = getattr(recipe, section)
        if used is not None:
            values[section] |= registry.filled(group, used.use, used.args)
    if json:
        output.print_json({"recipe": values})
    else:
        output.say(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None).rstrip())
        output.next_command(_dry(name, overrides))


def validate(name: str, overrides: list[str], deep: bool, roots: list[Path], json: bool) -> None:
    """Everything about a recipe that can be known without running it; `deep` builds networks and taps."""
    path = find_recipe(name)
    recipe = recipe_module.load(path, overrides)
    steps = steps_of(recipe)
    if deep:
        _deep(recipe, path, roots)
    if json:
        output.print_json({"recipe": recipe.name, "valid": True, "deep": deep, "steps": [step.name for step in steps]})
        return
    output.say(
        f"{path}: valid{' (networks, taps and data too)' if deep else ''}; steps: {', '.join(s.name for s in steps)}"
    )
    output.next_command(_dry(name, overrides, roots))


def schema() -> None:
    """JSON Schema of a recipe, with the arguments of every plugin beside its section."""
    document = Recipe.model_json_schema()
    for title, group in PLUGIN_SECTIONS.items():
        section = document["$defs"][title]
        plugins = registry.plugins(group)
        section["properties"]["use"]["enum"] = sorted(plugins)
        section["additionalProperties"] = False
        for plugin in plugins.values():
            for argument, entry in registry.schema(plugin).get("properties", {}).items():
                _merge(section["properties"], argument, {**entry, "description": f"argument of {plugin.name}"})
    typer.echo(jsonlib.dumps(document, indent=1))


def cp(name: str, to: Path) -> None:
    """Copy a recipe; an existing file is never overwritten."""
    source = find_recipe(name)
    if to.exists():
        raise UsageError(str(to), "exists already", "a new file", f"edgekd recipes cp {name} my_recipe.yaml")
    to.write_bytes(source.read_bytes())
    output.say(f"copied {source.name} to {to}")
    output.next_command(_dry(str(to)))


def _dry(recipe: str, overrides: Sequence[str] = (), roots: Sequence[Path] = ()) -> str:
    sets = "".join(f" --set {shlex.quote(value)}" for value in overrides)
    return f"edgekd run --recipe {shlex.quote(recipe)}{sets} --dry-run{current.option(WORKSPACE, roots)}"


def _merge(properties: dict[str, Any], name: str, entry: dict[str, Any]) -> None:
    """Two plugins may use one argument name with different types: either is then allowed."""
    old = properties.get(name)
    if old is None or "description" not in old or not old["description"].startswith("argument of"):
        properties.setdefault(name, entry)
    elif {k: v for k, v in old.items() if k != "description"} != {k: v for k, v in entry.items() if k != "description"}:
        properties[name] = {
            "anyOf": [old, entry],
            "description": f"argument of {old['description'][12:]}, {entry['description'][12:]}",
        }


def _deep(recipe: Recipe, path: Path, roots: list[Path]) -> None:
    settings = Settings(
        Path(),
        data_roots(roots),
        path.parent,
        Console(quiet=True),
        usable_cores() or 1,
        weight_caches=weight_caches(),
    )
    with recipe.placed():
        shape = cast("DataSource", registry.construct("data", recipe.data.use, recipe.data.args)).expected
        size = None if shape is None else (shape.height, shape.width)
        check_all([prepare(step, settings) for step in steps_of(recipe)], {}, settings, size)


def _summary(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            return line.lstrip("# ").rstrip()
    return ""
