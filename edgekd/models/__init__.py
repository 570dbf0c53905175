"""The networks by name: ours, and `torchvision:<name>`, `timm:<name>`. A new family is a file here and one line in `_NAMES`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from edgekd.errors import RecipeError, nearest
from edgekd.models import catalogue

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgekd.taps import TapPoint

_NAMES = {
    "resnet": (
        *("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
        *("resnet8x4", "resnet32x4"),
        *("resnet8_a", "resnet20_a", "resnet32_a", "resnet44_a", "resnet56_a", "resnet110_a"),
    ),
    "wrn": ("wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"),
    "resnet_imagenet": ("resnet18_imagenet", "resnet50_imagenet"),
    "vgg": ("vgg8", "vgg11", "vgg13", "vgg16", "vgg19"),
    "mobilenetv1": ("mobilenetv1",),
    "mobilenetv2": ("mobilenetv2_05",),
    "shufflenetv1": ("shufflenetv1",),
    "shufflenetv2": ("shufflenetv2_1x",),
    "densenet": ("densenet40", "densenet100"),
}

FAMILIES = {name: family for family, names in _NAMES.items() for name in names}


class Family(Protocol):
    """What a family's module offers."""

    FOREIGN: dict[str, str]  # key prefixes of published checkpoints -> ours

    def build(
        self, name: str, classes: int, channels: int, size: tuple[int, int], generator: torch.Generator | None
    ) -> nn.Module:
        """The network, initialised."""

    def taps(self, network: nn.Module) -> dict[str, TapPoint]:
        """Its taps by name, in order of depth."""


def names() -> tuple[str, ...]:
    """Every network of ours, family by family."""
    return tuple(FAMILIES)


def describe() -> list[tuple[str, str]]:
    """(name, family) of every network of ours."""
    return list(FAMILIES.items())


def check(name: str, where: str = "model") -> None:
    """See that there is a network of that name, ours or another package's; imports no torch.

    Raises:
        RecipeError: No such network; says the nearest name.
        MissingTool: It is one of a package that is not installed.
    """
    if catalogue.is_foreign(name):
        catalogue.split(name, where)
    elif name not in FAMILIES:
        close = nearest(name, FAMILIES)
        hint = close if close.startswith("did") else "edgekd models"
        raise RecipeError(
            where, f"unknown name {name!r}", "a name of `edgekd models`, torchvision:<name> or timm:<name>", hint
        )


def family(name: str) -> Family:
    """The family's module of a network; imports torch.

    Raises:
        RecipeError: No such network.
        MissingTool: It is one of a package that is not installed.
    """
    check(name)
    module = "foreign" if catalogue.is_foreign(name) else FAMILIES[name]
    return cast(Family, import_module(f"edgekd.models.{module}"))


def build(
    name: str,
    *,
    classes: int,
    channels: int = 3,
    size: tuple[int, int] = (32, 32),
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A network that returns logits [B, classes] of normalised images [B, channels, H, W] and ends in `classifier`.

    Args:
        name: One of `names()`, `torchvision:<name>` or `timm:<name>`.
        classes: Number of classes, >= 2.
        channels: Image channels, >= 1.
        size: (H, W) in pixels; only a family whose layers depend on it looks at it.
        generator: Draws the initial weights and leaves the global one alone; None: the global one draws.

    Raises:
        RecipeError: No such network, a count out of range, or images that the network cannot be built for.
        MissingTool: It is one of a package that is not installed.
    """
    if classes < 2 or channels < 1 or min(size) < 1:
        raise RecipeError(
            "model", f"{classes} classes, {channels} channels, size {size}", ">= 2 classes, >= 1 channel, >= 1 pixel"
        )
    return family(name).build(name, classes, channels, size, generator)


def taps(name: str, network: nn.Module) -> dict[str, TapPoint]:
    """The taps of a network made by `build(name)`, by name, in order of depth.

    To those of its family comes `last`: the map that is pooled for the classifier, where a module pools it.

    Raises:
        RecipeError: No such network, or one that does not take the images it was built for.
    """
    from edgekd.models.pooling import global_pool
    from edgekd.taps import TapPoint

    points, pool = family(name).taps(network), global_pool(network)
    if pool is None or "pooled" not in points:
        return points
    pooled = points.pop("pooled")
    return {**points, "last": TapPoint(pool, "input"), "pooled": pooled}
