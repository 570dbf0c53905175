"""The taps of a network of another package, found by showing it one empty image."""

from __future__ import annotations

from itertools import takewhile
from typing import Any, NamedTuple

from torch import Tensor, nn

from edgekd.errors import RecipeError
from edgekd.models.shown import Hook, show_empty
from edgekd.taps import TapPoint

SHOWN = 160  # characters of torch's message
WEIGHTED = (nn.Conv2d, nn.Linear)
POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


class Unit(NamedTuple):
    """One link of the chain of modules that the image goes through.

    Attributes:
        path: Inside the network.
        size: (H, W) of its output.
        block: Whether it holds two or more convolutions or linear layers.
        active: Whether it is a ReLU.
    """

    path: str
    size: tuple[int, int]
    block: bool
    active: bool


def points(network: nn.Module, head: str, channels: int, size: tuple[int, int]) -> dict[str, TapPoint]:
    """The taps of a network whose layers are named in another package, in order of depth.

    `block.i`: the output of each residual, inverted-residual, dense, fire or inception block; in a network without
    blocks (VGG, AlexNet) of each ReLU. `stage.i`: the last of them at each resolution. `stem`: what the first block is
    given. `pooled`: the input of the classifier. Only maps [B, C, H, W] count: a transformer of tokens has `pooled` alone.

    Args:
        network: Left as it was.
        head: Path of its classifier.
        channels: Image channels.
        size: (H, W) in pixels.

    Raises:
        RecipeError: The network does not take such images, or gives no logits.
    """
    units = _chain(network, _shapes(network, head, channels, size), size)
    blocks = [unit for unit in units if unit.block]
    stem = list(takewhile(lambda unit: not unit.block, units))[-1:] if blocks else []
    blocks = blocks or [unit for unit in units if unit.active]
    last = {unit.size: unit for unit in blocks}
    return {
        **({"stem": TapPoint(stem[0].path, "output")} if stem else {}),
        **{f"block.{n}": TapPoint(unit.path, "output") for n, unit in enumerate(blocks, 1)},
        **{f"stage.{n}": TapPoint(unit.path, "output") for n, unit in enumerate(last.values(), 1)},
        "pooled": TapPoint(head, "input"),
    }


def unfit(name: str, channels: int, size: tuple[int, int], error: Exception) -> RecipeError:
    """The error for images that a network does not take."""
    told = (str(error).splitlines() or [type(error).__name__])[0][:SHOWN]
    return RecipeError(
        "model",
        f"{name} does not take images of {channels} channels, {size[0]}x{size[1]} pixels ({told})",
        "images that the network is made for",
        "--set data.size=224, or another model",
    )


def _shapes(network: nn.Module, head: str, channels: int, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Output shape by path, in the order of completion, of the modules that ran once and before the classifier."""
    found: dict[str, tuple[int, ...]] = {}
    again: set[str] = set()
    reached = False

    def watch(path: str) -> Hook:
        def seen(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            nonlocal reached
            reached = reached or path == head
            if not reached and isinstance(output, Tensor):
                again.update({path} & found.keys())
                found[path] = tuple(output.shape)

        return seen

    hooks = [(module, watch(path)) for path, module in network.named_modules()]
    logits = show_empty(network, channels, size, hooks)
    if not reached or not isinstance(logits, Tensor) or logits.dim() != 2:
        raise RecipeError("model", "it gives no logits [B, classes] through its classifier", hint="another model")
    return {path: shape for path, shape in found.items() if path not in again}


def _chain(network: nn.Module, shapes: dict[str, tuple[int, ...]], size: tuple[int, int]) -> list[Unit]:
    """The links whose outputs are maps, up to the pooling."""
    units: list[Unit] = []
    for path, shape in shapes.items():
        module = network.get_submodule(path)
        if path == "" or _is_container(path, module) or not _on_chain(network, path):
            continue
        if isinstance(module, POOLS) or path.endswith(".pre_logits"):  # timm's VGG: its hidden layers as convolutions
            break
        if len(shape) != 4 or not _is_map(shape, size):
            continue
        weighted = sum(isinstance(inner, WEIGHTED) for inner in module.modules())
        units.append(Unit(path, (shape[2], shape[3]), weighted > 1, isinstance(module, nn.ReLU)))
    return units


def _on_chain(network: nn.Module, path: str) -> bool:
    parts = path.split(".")
    above = (".".join(parts[:n]) for n in range(1, len(parts)))
    return all(_is_container(place, network.get_submodule(place)) for place in above)


def _is_container(path: str, module: nn.Module) -> bool:
    """A module that hands the image from child to child: the wrapped network, a Sequential, a stage with its `blocks`."""
    return path == "network" or isinstance(module, nn.Sequential | nn.ModuleList) or hasattr(module, "blocks")


def _is_map(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """[B, C, H, W] in the images' own proportions, to a pixel; Swin's [B, H, W, C] is not, as its channels are no side."""
    rounding = 0 if size[0] == size[1] else 1
    return shape[2] <= size[0] and abs(shape[2] * size[1] / size[0] - shape[3]) <= rounding
