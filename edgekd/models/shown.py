"""One empty image through a network, watched, and the network left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

Hook = Callable[[nn.Module, tuple[Any, ...], Any], None]


def show_empty(
    network: nn.Module, channels: int, size: tuple[int, int], hooks: Iterable[tuple[nn.Module, Hook]]
) -> Any:
    """The network's output for zeros [1, channels, *size] in eval mode, without gradient.

    Args:
        network: Its modes are put back.
        channels: Image channels.
        size: (H, W) in pixels.
        hooks: (module, forward hook) pairs, gone afterwards.
    """
    modes = [(module, module.training) for module in network.modules()]
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    device = next(network.parameters()).device
    try:
        network.eval()
        with torch.no_grad():
            return network(torch.zeros(1, channels, *size, device=device))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
