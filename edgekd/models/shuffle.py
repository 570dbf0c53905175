"""The channel shuffle of the ShuffleNets."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelShuffle(nn.Module):
    """Deals the channels of `groups` equal groups out in turn: channel j of group i goes to place j * groups + i."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape; C is a multiple of `groups`."""
        return torch.unflatten(x, 1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
