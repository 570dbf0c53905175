"""YAML text -> plain data with a line number for every key. Data only: tags, aliases and merge keys are refused."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from edgekd.errors import RecipeError

MAX_BYTES = 65_536  # a recipe is a page or two; this bounds what a hostile file can cost
MAX_DEPTH = 20
MAX_INTEGER = 2**63
FLOAT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")  # 1e-3 is a number to people, not to YAML 1.1

KeyPath = tuple[str | int, ...]


@dataclass
class Source:
    """A parsed document: `data` and, for every key path in it, the text that says where it stands (`file.yaml:7`)."""

    name: str
    data: dict[str, Any]
    places: dict[KeyPath, str] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """Where a key path, or the nearest parent of it that exists, was written."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, self.name)


def read(path: Path) -> Source:
    """Parse one YAML file that holds a mapping.

    Raises:
        RecipeError: The file is missing, too large, no UTF-8, no YAML, or uses tags, aliases or duplicate keys.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(str(path), f"cannot be read: {error.strerror}", "a YAML file", "edgekd recipes ls") from error
    if len(raw) > MAX_BYTES:
        raise RecipeError(str(path), f"has more than {MAX_BYTES} bytes", "a recipe: a page or two")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(str(path), f"is not UTF-8 text (byte {error.start})", "a YAML file in UTF-8") from error
    return parse(text, str(path))


def parse(text: str, name: str) -> Source:
    """Parse YAML text; see `read`."""
    source = Source(name, {})
    try:
        _refuse_code(text, name)
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            data = _plain(loader, node, (), source) if node is not None else {}
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}:{mark.line + 1}" if mark is not None else name
        raise RecipeError(where, f"is not valid YAML: {error.problem}", "key: value lines") from error
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(name, f"is not valid YAML: {error}", "key: value lines") from error
    if not isinstance(data, dict):
        raise RecipeError(name, f"holds a {type(data).__name__}", "key: value lines at the top")
    source.data = data
    return source


def scalar(text: str, where: str) -> Any:
    """The value of an override: one YAML scalar or flow list (`0.5`, `[onnx, onnx-int8]`).

    Raises:
        RecipeError: It is anything else.
    """
    data = parse(f"value: {text}", where).data
    if list(data) != ["value"]:
        raise RecipeError(where, "is more than one value", "one scalar or list")
    return data["value"]


def _refuse_code(text: str, name: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        mark: Any = event.start_mark
        where = f"{name}:{mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise RecipeError(where, "uses a YAML anchor or alias", "plain values: a recipe is data only")
        tag = getattr(event, "tag", None)
        if tag:
            raise RecipeError(where, f"uses the YAML tag {tag!r}", "plain values: a recipe is data only")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise RecipeError(where, f"is nested more than {MAX_DEPTH} deep", "a flat recipe")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _plain(loader: yaml.SafeLoader, node: yaml.Node, path: KeyPath, source: Source) -> Any:
    where = f"{source.name}:{node.start_mark.line + 1}"
    source.places.setdefault(path, where)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*path, i), source) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        value = loader.construct_object(node)
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        return _usable(float(value) if plain and isinstance(value, str) and FLOAT.fullmatch(value) else value, where)
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = f"{source.name}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode) or key_node.value == "<<":
            raise RecipeError(place, "has a key that is not a word", "key: value lines")
        key = _usable(str(key_node.value), place)
        if key in result:
            raise RecipeError(place, f"key {key!r} stands twice", "each key once")
        source.places[(*path, key)] = place
        result[key] = _plain(loader, value_node, (*path, key), source)
    return result


def _usable(value: Any, where: str) -> Any:
    """A scalar that can be shown, stored and counted with."""
    if isinstance(value, str) and any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in value):
        raise RecipeError(where, f"has a control character: {value!a:.80}", "plain text")
    if isinstance(value, int) and abs(value) >= MAX_INTEGER:
        raise RecipeError(where, f"has an integer of {value.bit_length()} bits", "at most 63")
    return value
