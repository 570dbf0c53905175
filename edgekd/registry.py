"""file name -> plugin. Plugins are listed and their arguments checked by reading their source, without importing them.

A plugin is a file in `edgekd/<group>/` with exactly one class that derives from the group's base, or an entry point of
the group `edgekd.<group>` in another package. Its constructor's signature (types, defaults, `Annotated` ranges) is its schema.
"""

from __future__ import annotations

import ast
import importlib
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

import annotated_types
from pydantic import ConfigDict, Field, ValidationError, create_model

from edgekd.errors import MissingTool, RecipeError, nearest

BASES = {
    "distillers": "Distiller",
    "quantizers": "Quantizer",
    "exporters": "Exporter",
    "data": "DataSource",
    "transport": "Transport",
}

_NAMESPACE: dict[str, Any] = {
    **{name: getattr(annotated_types, name) for name in ("Ge", "Gt", "Le", "Lt", "Interval", "Len", "MultipleOf")},
    **{name: getattr(typing, name) for name in ("Annotated", "Literal", "Any")},
    **{kind.__name__: kind for kind in (bool, int, float, str, list, tuple, dict)},
    "Path": str,
    "Sequence": list,
}


@dataclass(frozen=True)
class Argument:
    """One constructor argument of a plugin, as written in its source."""

    name: str
    annotation: str
    default: str | None  # source text; None = required


@dataclass(frozen=True, eq=False)
class Plugin:
    """One plugin, read from its source."""

    group: str
    name: str
    module: str
    class_name: str
    version: int
    summary: str
    arguments: tuple[Argument, ...]
    attributes: Mapping[str, Any]  # literal class attributes: needs_teacher, reconstruction ...


@cache
def plugins(group: str) -> dict[str, Plugin]:
    """All plugins of a group by name.

    Raises:
        MissingTool: Two plugins of one name, or a file whose source cannot be read.
    """
    spec = util.find_spec(f"edgekd.{group}")
    if spec is None or not spec.submodule_search_locations:
        raise MissingTool(
            f"edgekd.{group}", "is not installed", "a whole edgekd", "pip install --force-reinstall edgekd"
        )
    found: dict[str, Plugin] = {}
    for path in sorted(Path(spec.submodule_search_locations[0]).glob("*.py")):
        plugin = _read(group, path.stem, f"edgekd.{group}.{path.stem}", path)
        if plugin is not None:
            found[plugin.name] = plugin
    for point in metadata.entry_points(group=f"edgekd.{group}"):
        module, _, _ = point.value.partition(":")
        origin = util.find_spec(module)
        if point.name in found or origin is None or origin.origin is None:
            raise MissingTool(
                f"entry point {point.name}", "is taken or has no source", "a free name", f"pip show {point.dist}"
            )
        plugin = _read(group, point.name, module, Path(origin.origin))
        if plugin is not None:
            found[point.name] = plugin
    return found


def find(group: str, name: str, where: str = "") -> Plugin:
    """One plugin by name.

    Raises:
        RecipeError: No such plugin; says the nearest name.
    """
    known = plugins(group)
    if name not in known:
        raise RecipeError(
            where or f"{group}.use", f"unknown name {name!r}", nearest(name, known), f"edgekd {_LISTED[group]}"
        )
    return known[name]


_LISTED = {
    "distillers": "distillers",
    "quantizers": "recipes schema",
    "exporters": "formats",
    "data": "recipes schema",
    "transport": "devices",
}


def check(group: str, name: str, args: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Arguments of a plugin, validated, in the one spelling that a key hashes: no defaults, 50.0 as 50.

    Raises:
        RecipeError: Unknown plugin, unknown, missing or ill-typed argument, value out of range.
    """
    plugin = find(group, name, f"{where}.use")
    model = _model(plugin)
    try:
        given = model.model_validate(dict(args))
    except ValidationError as error:
        item = error.errors()[0]
        key = ".".join(str(part) for part in item["loc"][:1])
        known = [argument.name for argument in plugin.arguments]
        if item["type"] == "extra_forbidden":
            raise RecipeError(
                f"{where}.{key}", f"{name} has no argument {key!r}", nearest(key, known) if known else "no arguments"
            ) from error
        if item["type"] == "missing":
            raise RecipeError(f"{where}.{key}", f"{name} needs it", "a value") from error
        raise RecipeError(
            f"{where}.{key}", f"found {item['input']!r}", item["msg"].removeprefix("Input should be ")
        ) from error
    values = {k: _plain(v) for k, v in given.model_dump(exclude_defaults=True).items()}
    wraps = plugin.attributes.get("wraps")
    if wraps is not None and wraps in values:
        values[wraps] = [_member(group, item, f"{where}.{wraps}.{n}") for n, item in enumerate(values[wraps])]
    return values


def members(group: str, name: str, args: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(name, arguments) of the plugins that a plugin is made of, in their order; none for most.

    Such a plugin's class says `wraps`: its argument that lists them, each as {use, weight, and own arguments}.
    """
    plugin = find(group, name)
    wraps = plugin.attributes.get("wraps")
    if wraps is None:
        return []
    default = next((a.default for a in plugin.arguments if a.name == wraps), None)
    listed = args[wraps] if wraps in args else ast.literal_eval(default or "()")
    return [(item["use"], _own(item)) for item in listed]


def _member(group: str, item: Mapping[str, Any], where: str) -> dict[str, Any]:
    """One member in the one spelling that a key hashes."""
    use, weight = item.get("use"), item.get("weight", 1)
    if not isinstance(use, str):
        raise RecipeError(f"{where}.use", f"found {use!r}", "a method's name", f"edgekd {_LISTED[group]}")
    if "wraps" in find(group, use, f"{where}.use").attributes:
        raise RecipeError(f"{where}.use", f"{use} is made of others itself", "its members in this list")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise RecipeError(f"{where}.weight", f"found {weight!r}", "a number >= 0")
    return {"use": use, "weight": _plain(weight), **check(group, use, _own(item), where)}


def _own(item: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key not in ("use", "weight")}


def filled(group: str, name: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a plugin, the defaults of its constructor included."""
    return typing.cast("dict[str, Any]", _model(find(group, name)).model_validate(dict(args)).model_dump())


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def schema(plugin: Plugin) -> dict[str, Any]:
    """JSON Schema of a plugin's arguments."""
    return typing.cast("dict[str, Any]", _model(plugin).model_json_schema())


def load(group: str, name: str) -> type[Any]:
    """Import a plugin's class.

    Raises:
        RecipeError: No such plugin.
        MissingTool: Its framework is not installed.
    """
    plugin = find(group, name)
    try:
        module = importlib.import_module(plugin.module)
    except ModuleNotFoundError as error:
        raise MissingTool(
            f"{group} {name}", f"package {error.name} is not installed", "the package", f"pip install {error.name}"
        ) from error
    return typing.cast("type[Any]", getattr(module, plugin.class_name))


def construct(group: str, name: str, args: Mapping[str, Any]) -> Any:
    """An instance of a plugin with the recipe's arguments."""
    return load(group, name)(**args)


def _read(group: str, name: str, module: str, path: Path) -> Plugin | None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    base = BASES[group]
    classes = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(b).split(".")[-1] == base for b in node.bases)
    ]
    if not classes or name == "base":
        return None
    if len(classes) > 1:
        raise MissingTool(f"{group}/{name}.py", f"holds {len(classes)} plugins", "exactly one")
    node = classes[0]
    attributes = _literals(node)
    doc = ast.get_docstring(node) or ast.get_docstring(tree) or ""
    return Plugin(
        group=group,
        name=name,
        module=module,
        class_name=node.name,
        version=int(attributes.get("VERSION", 1)),
        summary=doc.split("\n")[0],
        arguments=_arguments(node),
        attributes=attributes,
    )


def _literals(node: ast.ClassDef) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in node.body:
        target = item.targets[0] if isinstance(item, ast.Assign) else getattr(item, "target", None)
        value = getattr(item, "value", None)
        if isinstance(target, ast.Name) and value is not None:
            try:
                values[target.id] = ast.literal_eval(value)
            except ValueError:
                continue  # not a literal: no part of the listing
    return values


def _arguments(node: ast.ClassDef) -> tuple[Argument, ...]:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            plain = item.args.args[1:]
            gaps: list[ast.expr | None] = [None] * (len(plain) - len(item.args.defaults))
            pairs = [
                *zip(plain, [*gaps, *item.args.defaults], strict=True),
                *zip(item.args.kwonlyargs, item.args.kw_defaults, strict=True),
            ]
            return tuple(
                Argument(
                    arg.arg,
                    ast.unparse(arg.annotation) if arg.annotation else "Any",
                    None if default is None else ast.unparse(default),
                )
                for arg, default in pairs
            )
    return ()


@cache
def _model(plugin: Plugin) -> Any:
    """A pydantic model of the signature. The annotations are the plugin's own source, evaluated in a closed namespace."""
    fields: dict[str, Any] = {}
    for argument in plugin.arguments:
        kind = eval(argument.annotation, {"__builtins__": {}}, _NAMESPACE)  # our own source or an installed package's
        default = ... if argument.default is None else ast.literal_eval(argument.default)
        fields[argument.name] = (kind, Field(default))
    return create_model(
        plugin.class_name, __config__=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False), **fields
    )


def stage_version(stage: str) -> int:
    """`VERSION` of `edgekd/stages/<stage>.py`, read without importing it."""
    spec = util.find_spec("edgekd.stages")
    assert spec is not None
    assert spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / f"{stage}.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "VERSION":
            return int(ast.literal_eval(node.value))
    raise MissingTool(str(path.name), "has no VERSION", "an int literal")
