"""The networks by name. A new family is a file here and one line in `_NAMES`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from edgekd.errors import RecipeError, nearest

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
    """Every network, family by family."""
    return tuple(FAMILIES)


def describe() -> list[tuple[str, str]]:
    """(name, family) of every network."""
    return list(FAMILIES.items())


def family(name: str) -> Family:
    """The family's module of a network; imports torch.

    Raises:
        RecipeError: No such network.
    """
    if name not in FAMILIES:
        raise RecipeError(
            "model", f"no network is called {name!r}", "a name of `edgekd models`", nearest(name, FAMILIES)
        )
    return cast(Family, import_module(f"edgekd.models.{FAMILIES[name]}"))


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
        name: One of `names()`.
        classes: Number of classes, >= 2.
        channels: Image channels, >= 1.
        size: (H, W) in pixels; only a family whose layers depend on it looks at it.
        generator: Draws the initial weights and leaves the global one alone; None: the global one draws.

    Raises:
        RecipeError: No such network, or a count out of range.
    """
    if classes < 2 or channels < 1 or min(size) < 1:
        raise RecipeError(
            "model", f"{classes} classes, {channels} channels, size {size}", ">= 2 classes, >= 1 channel, >= 1 pixel"
        )
    return family(name).build(name, classes, channels, size, generator)


def taps(name: str, network: nn.Module) -> dict[str, TapPoint]:
    """The taps of a network made by `build(name)`, by name, in order of depth.

    Raises:
        RecipeError: No such network.
    """
    return family(name).taps(network)
