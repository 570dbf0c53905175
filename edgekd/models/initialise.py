"""Initial weights, drawn from one generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


def initialised(
    make: Callable[[], nn.Module],
    generator: torch.Generator | None,
    *,
    zero_bias: bool = False,
    linear_std: float | None = None,
) -> nn.Module:
    """The network that `make` builds, its weights drawn anew: convolutions Kaiming normal (fan-out, ReLU gain) and
    bias 0, BatchNorm 1 and 0, linear layers as torch does.

    Args:
        make: Builds the network; torch's own draws in it leave the global generator untouched.
        generator: Draws the weights; None: the global one.
        zero_bias: Set linear biases to 0 instead of drawing them (the WRN, VGG and MobileNetV2 families).
        linear_std: Draw linear weights from a normal distribution of that deviation (VGG, MobileNetV2).

    Source: Tian et al., RepDistiller, and Zhao et al., mdistiller: `models/cifar`.
    """
    with torch.random.fork_rng(devices=[]):
        network = make()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            if linear_std is None:
                nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
            else:
                nn.init.normal_(module.weight, 0.0, linear_std, generator=generator)
            bound = 0.0 if zero_bias else 1 / math.sqrt(module.in_features)
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
    return network


@contextmanager
def drawing(generator: torch.Generator | None) -> Iterator[None]:
    """The CPU's global generator, from which constructors draw, seeded from ours while the block runs; None: as it is."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators, too
        yield
