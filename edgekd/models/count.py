"""Parameters and multiply-accumulates of a network."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from edgekd.models.shown import show_empty


def count(network: nn.Module, channels: int, size: tuple[int, int]) -> tuple[int, int]:
    """(parameters, MACs): all parameters with BatchNorm's, and the multiply-accumulates of convolutions and linear
    layers for one image [1, channels, *size]. The network and its modes are left as they were.
    """
    macs = 0

    def add(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        nonlocal macs
        if isinstance(module, nn.Conv2d):
            macs += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            macs += output[0].numel() * module.in_features

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    show_empty(network, channels, size, [(layer, add) for layer in layers])
    return sum(parameter.numel() for parameter in network.parameters()), macs
