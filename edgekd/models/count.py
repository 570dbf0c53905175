"""Parameters and multiply-accumulates of a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


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
    modes = [(module, module.training) for module in network.modules()]
    handles = [layer.register_forward_hook(add) for layer in layers]
    device = next(network.parameters()).device
    try:
        network.eval()
        with torch.no_grad():
            network(torch.zeros(1, channels, *size, device=device))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return sum(parameter.numel() for parameter in network.parameters()), macs
