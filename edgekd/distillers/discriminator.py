"""The network of KDFM that tells the teacher's maps from the student's, and its losses (edgekd reconstruction).

Source: spectral normalisation by Miyato, Kataoka, Koyama, Yoshida, Spectral Normalization for Generative Adversarial
Networks, ICLR 2018, section 2; least squares by Mao et al., Least Squares Generative Adversarial Networks, ICCV 2017.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

Adversary = Literal["lsgan", "hinge", "bce"]
Weights = list[tuple[Tensor, Tensor]]  # (weight of spectral norm 1, bias) of each layer

CONVOLUTIONS = ((256, 1), (128, 2), (64, 2))  # outputs and stride of the 3x3 convolutions
SLOPE = 0.2  # of LeakyReLU


class Discriminator(nn.Module):
    """3x3 convolutions to 256, 128 (stride 2) and 64 (stride 2) channels, LeakyReLU, mean over pixels, linear.

    Args:
        channels: Of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for outputs, stride in CONVOLUTIONS:
            self.layers.append(spectral_norm(nn.Conv2d(channels, outputs, 3, stride, 1)))
            channels = outputs
        self.layers.append(spectral_norm(nn.Linear(channels, 1)))

    def weights(self) -> Weights:
        """Normalised weights with gradients to its parameters.

        While training each call takes one power iteration, so it is called once a step and its result used for all maps.
        """
        return [(layer.weight, layer.bias) for layer in self.layers]  # type: ignore[misc]

    def forward(self, maps: Tensor, weights: Weights) -> Tensor:
        """One score [B] of each map [B, C, H, W]."""
        *convolutions, (weight, bias) = weights
        for (kernel, offset), (_, stride) in zip(convolutions, CONVOLUTIONS, strict=True):
            maps = F.leaky_relu(F.conv2d(maps, kernel, offset, stride, 1), SLOPE)
        return F.linear(maps.mean((2, 3)), weight, bias)[:, 0]


def detached(weights: Weights) -> Weights:
    """The same weights without gradients."""
    return [(weight.detach(), bias.detach()) for weight, bias in weights]


def telling(kind: Adversary, real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss of its scores [B] of the teacher's and of the student's maps, the mean of both sides."""
    if kind == "lsgan":
        sides = (real - 1).square(), fake.square()
    elif kind == "hinge":
        sides = F.relu(1 - real), F.relu(1 + fake)
    else:
        sides = F.softplus(-real), F.softplus(fake)
    return torch.stack([side.mean() for side in sides]).mean()


def fooling(kind: Adversary, fake: Tensor) -> Tensor:
    """The student's loss of the scores [B] of its maps: they should be taken for the teacher's."""
    if kind == "lsgan":
        return (fake - 1).square().mean() / 2
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def accuracy(kind: Adversary, real: Tensor, fake: Tensor) -> Tensor:
    """Share of the maps that are told right."""
    bound = 0.5 if kind == "lsgan" else 0.0
    return torch.cat([real > bound, fake <= bound]).float().mean()
