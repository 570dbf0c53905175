"""A drawn SVG document -> one `<svg>` element that can stand in a page: no namespaces, own ids, theme colours, title and description."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree

REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline(document: bytes, *, name: str, title: str, description: str, colours: Mapping[str, str]) -> str:
    """Make a document part of a page.

    Args:
        document: What the drawing library wrote, XML.
        name: Prefix of every id; unique in the page.
        title: Short name of the picture, for people who do not see it.
        description: What it shows.
        colours: {hex colour in lower case: CSS variable that replaces it}; the hex stays as the variable's fallback.
    """
    root = ElementTree.fromstring(document)
    for parent in list(root.iter()):
        parent.tag = _local(parent.tag)
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style", "title", "desc"):
                parent.remove(child)
        parent.attrib = {_attribute(key): _value(key, value, name) for key, value in parent.attrib.items()}
    _name(root, name, title, description)
    for element in root.iter():
        for key in ("style", "fill", "stroke"):
            if key in element.attrib:
                element.attrib[key] = _themed(element.attrib[key], colours)
    return ElementTree.tostring(root, encoding="unicode")


def _name(root: ElementTree.Element, name: str, title: str, description: str) -> None:
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-desc", "class": "plot"}
    for i, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(i, element)


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _attribute(key: str) -> str:
    return f"xlink:{_local(key)}" if "xlink" in key else _local(key)


def _value(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if _local(key) == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    return REFERENCE.sub(rf"url(#{name}-\1)", value)


def _themed(value: str, colours: Mapping[str, str]) -> str:
    for colour, variable in colours.items():
        value = value.replace(colour, f"var({variable}, {colour})")
    return value
