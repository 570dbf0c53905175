"""Named layers of a network, reduced inside the forward; nothing is left behind."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from edgekd.errors import RecipeError, StageFailed, nearest

Side = Literal["input", "output"]
Reduction = Literal["map", "energy", "pooled"]
Wanted = Sequence[tuple[str, Reduction]]
Kind = Literal["block", "stage"]

MOST_BLOCKS = 27  # AFD's taps of ResNet-110: every second of its 54 blocks


class TapPoint(NamedTuple):
    """Where a tap reads: the path of a module inside the network, and its input or its output."""

    path: str
    side: Side


@dataclass(frozen=True)
class Outputs:
    """What a distiller sees of one network.

    Attributes:
        logits: [B, classes].
        taps: Reduced taps under `tap:reduction` (`block.3:energy`): map [B, C, H, W], energy [B, H, W], pooled [B, C].
        index: [B] int64, the rows of the training split that the batch holds; None when nobody asked.
    """

    logits: Tensor
    taps: dict[str, Tensor] = field(default_factory=dict)
    index: Tensor | None = None


def feature_taps(names: Sequence[str], kind: Kind, network: str) -> list[str]:
    """The taps of that kind in order of depth; of more than 27 blocks every second (third, ...) one.

    Raises:
        RecipeError: The network offers none.
    """
    found = [name for name in names if name.startswith(f"{kind}.")]
    if not found:
        other = "stage" if kind == "block" else "block"
        if not any(name.startswith(f"{other}.") for name in names):
            raise RecipeError(
                "distill.use",
                f"the {network} has no feature maps, its taps are: {', '.join(names) or 'none'}",
                "networks with maps [B, C, H, W] for this method",
                "distill.use: kd, or a method of the pooled vector alone",
            )
        raise RecipeError("distill.taps", f"the {network} has no {kind} taps", "taps it has", f"taps: {other}")
    stride = math.ceil(len(found) / MOST_BLOCKS) if kind == "block" else 1
    return found[stride - 1 :: stride]


def reduce(value: Tensor, reduction: Reduction) -> Tensor:
    """One tap value [B, C, H, W] as `map` (as it is), `energy` [B, H, W] or `pooled` [B, C] (both float32).

    A value [B, C] (input of a classifier) is its own `pooled`. Energy is the mean over channels of the square.
    """
    if reduction == "map":
        return value
    value = value.float()
    if reduction == "pooled":
        return value.sum(dim=(2, 3)) / value[0, 0].numel() if value.dim() == 4 else value
    # Value and gradient of the mean of squares. The gradient of `square` takes three passes over the map, that of this
    # product one; sums divided when they are small save one more against `mean`.
    half = (value * value.detach()).sum(dim=1)
    return (2 * half - half.detach()) / value.shape[1]


class Tapped(nn.Module):
    """A network that normalises its images and returns its logits and its reduced taps. Made by `tapped`.

    Args:
        network: Returns logits only.
        keys: The taps it must deliver, as `tap:reduction`.
        mean: Per-channel mean of the images in [0, 1].
        std: Per-channel standard deviation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, keys: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.keys = tuple(keys)
        self.store: dict[str, Tensor] = {}
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        for name, values in (("mean", mean), ("std", std)):
            tensor = torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits [B, classes] and {key: tensor} of images [B, C, H, W] in [0, 1].

        Raises:
            StageFailed: A tap delivered nothing, or more than once.
        """
        self.store.clear()
        logits = self.network((images - self.mean) / self.std)
        missing = [key for key in self.keys if key not in self.store]
        if missing:
            raise StageFailed(
                f"tap {missing[0]}",
                "the layer was not run, or the network was compiled before its taps were set",
                "every wanted tap delivers once a forward",
                "set the taps first, then compile what `tapped` gives",
            )
        taps = {key: self.store[key] for key in self.keys}
        self.store.clear()
        return logits, taps


@contextmanager
def tapped(
    network: nn.Module, points: Mapping[str, TapPoint], wanted: Wanted, mean: Sequence[float], std: Sequence[float]
) -> Iterator[Tapped]:
    """`Tapped` over the network while the block runs; compile it inside the block. The hooks are gone afterwards.

    Raises:
        RecipeError: A wanted tap is not among the points, or its path is not in the network.
    """
    unique = list(dict.fromkeys(wanted))
    module = Tapped(network, [f"{tap}:{reduction}" for tap, reduction in unique], mean, std)
    handles = []
    try:
        for tap, reduction in unique:
            handles.append(_watch(network, tap, points, reduction, module.store))
        yield module
    finally:
        for handle in handles:
            handle.remove()
        module.store.clear()


def _watch(
    network: nn.Module, tap: str, points: Mapping[str, TapPoint], reduction: Reduction, store: dict[str, Tensor]
) -> torch.utils.hooks.RemovableHandle:
    key = f"{tap}:{reduction}"
    layer, side = _layer(network, tap, points)

    def keep(value: Tensor) -> None:
        if key in store:
            raise StageFailed(f"tap {key}", "the layer ran more than once in one forward", "a layer that runs once")
        store[key] = reduce(value, reduction)

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        keep(args[0])

    def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        keep(output)

    return layer.register_forward_pre_hook(before) if side == "input" else layer.register_forward_hook(after)


def _layer(network: nn.Module, tap: str, points: Mapping[str, TapPoint]) -> tuple[nn.Module, Side]:
    if tap not in points:
        raise RecipeError("distill.taps", f"the network has no tap {tap!r}", hint=nearest(tap, points))
    path, side = points[tap]
    try:
        return network.get_submodule(path), side
    except AttributeError:
        raise RecipeError("distill.taps", f"tap {tap!r} names the layer {path!r}, which the network lacks") from None
