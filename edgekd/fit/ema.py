"""Exponential moving average of a network's state."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """Averaged copy of a network's floating-point state, BatchNorm statistics included; counters are copied.

    Args:
        network: The network that is trained.
        decay: Part of the average kept at each step, in (0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take the network's state after one optimizer step into the average."""
        for name, tensor in network.state_dict().items():
            kept = self.state[name]
            if kept.is_floating_point():
                kept.lerp_(tensor.detach(), 1 - self.decay)
            else:
                kept.copy_(tensor)

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a saved average."""
        for name, tensor in state.items():
            self.state[name].copy_(tensor)
