"""Weights published for a network of another package: which file they are, and where it lies. Nothing is ever downloaded.

torchvision's names (`IMAGENET1K_V1`) are read from its sources, timm's tags (`a1_in1k`) name a repository of the Hugging
Face hub; neither package is imported.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from edgekd.artifact import sha256_file
from edgekd.data.checkpoint_file import find_checkpoint, places
from edgekd.errors import IntegrityError, RecipeError, nearest
from edgekd.models import catalogue

WHERE = "teacher.weights"
NAME = re.compile(r"\w+")  # a path to a file has a dot or a slash
HASH = re.compile(r"-([0-9a-f]{8,})\.")  # torchvision's file names carry the first digits of their SHA-256


class Source(NamedTuple):
    """Where weights come from: a file name of ours to look for, the name in a hub cache, the address."""

    file: str
    cached: str
    url: str


def check(model: str, weights: str) -> None:
    """See that weights given by name, not as a file, exist for that network.

    Raises:
        RecipeError: They do not; says the nearest name.
        MissingTool: The network's package is not installed.
    """
    if catalogue.is_foreign(model) and NAME.fullmatch(weights):
        source(model, weights)


def find(model: str, weights: str, recipe_dir: Path | None, roots: Sequence[Path], caches: Sequence[Path]) -> Path:
    """The file of those weights: a path found like a checkpoint, or a name looked up in caches and data roots.

    Args:
        model: The network's name.
        weights: As the recipe says it.
        recipe_dir: Folder of the recipe.
        roots: Data roots.
        caches: The cache folders of torch's and of Hugging Face's hub.

    Raises:
        RecipeError: No such name, or the file is nowhere: says every place looked in and how to fetch it.
        IntegrityError: It is there and is not what its name says.
    """
    if not (catalogue.is_foreign(model) and NAME.fullmatch(weights)):
        return find_checkpoint(weights, recipe_dir, roots, WHERE)
    wanted = source(model, weights)
    looked = list(dict.fromkeys(places(wanted.file, recipe_dir, roots)))
    for place in [*looked, *_hits(caches, wanted.cached)]:
        if place.is_file():
            return _intact(place, wanted.file)
    listed = "".join(f"\n    {place}" for place in [*looked, *(cache / wanted.cached for cache in caches)])
    raise RecipeError(
        WHERE,
        f"{weights} of {model} is not on this machine; looked for:{listed}",
        "one of these files; edgekd downloads nothing",
        f"curl -L --create-dirs -o {looked[-1]} {wanted.url}",
    )


def source(model: str, weights: str) -> Source:
    """The file and the address of weights by name.

    Raises:
        RecipeError: torchvision has no such weights for the network; says the nearest name.
        MissingTool: The package is not installed.
    """
    package, architecture = catalogue.split(model, "teacher.model")
    if package == "timm":
        repository = f"{architecture}.{weights}"
        url = f"https://huggingface.co/timm/{repository}/resolve/main/model.safetensors"
        return Source(f"{repository}.safetensors", f"models--timm--{repository}/snapshots/*/model.safetensors", url)
    known = urls(architecture)
    if weights not in known:
        hint = nearest(weights, known) if known else "no weights are published for it"
        raise RecipeError(WHERE, f"torchvision has no weights {weights!r} for {architecture}", hint=hint)
    file = known[weights].rpartition("/")[2]
    return Source(file, file, known[weights])


def urls(architecture: str) -> dict[str, str]:
    """{name: address} of torchvision's weights for a network, `DEFAULT` among them."""
    for path in catalogue.sources("torchvision"):
        text = path.read_text(encoding="utf-8")
        if f"\ndef {architecture}(" in text:
            tree = ast.parse(text)
            return _entries(tree, _weights_class(tree, architecture))
    return {}


def _weights_class(tree: ast.Module, architecture: str) -> str:
    """`ResNet18_Weights`, from the builder's `weights: Optional[ResNet18_Weights] = None`."""
    builder = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == architecture)
    annotation = next(arg.annotation for arg in [*builder.args.args, *builder.args.kwonlyargs] if arg.arg == "weights")
    names = [node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)] if annotation else []
    return next((name for name in names if name.endswith("_Weights")), "")


def _entries(tree: ast.Module, name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for entry, value in _assigned(node):
                if isinstance(value, ast.Name):
                    found[entry] = found[value.id]
                elif isinstance(value, ast.Call):
                    found[entry] = next(ast.literal_eval(word.value) for word in value.keywords if word.arg == "url")
    return found


def _assigned(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    for line in node.body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            yield line.targets[0].id, line.value


def _hits(caches: Sequence[Path], pattern: str) -> Iterator[Path]:
    for cache in caches:
        if cache.is_dir():
            yield from sorted(cache.glob(pattern))


def _intact(path: Path, name: str) -> Path:
    said = HASH.search(name)
    if said and not sha256_file(path).startswith(said.group(1)):
        raise IntegrityError(WHERE, f"{path} is cut short or changed", f"SHA-256 {said.group(1)}...", "fetch it again")
    return path
