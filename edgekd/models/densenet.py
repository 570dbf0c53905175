"""DenseNets without bottleneck, growth 12: three dense blocks, `densenet<depth>`.

Source: Huang, Liu, van der Maaten, Weinberger, Densely Connected Convolutional Networks, 2017, section 3 (16 channels
after the stem, transitions that keep the channel count, no dropout).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekd.models.initialise import initialised
from edgekd.models.poolable import require_poolable
from edgekd.taps import TapPoint

_STEM, _GROWTH = 16, 12

TABLE: dict[str, int] = {f"densenet{depth}": (depth - 4) // 3 for depth in (40, 100)}  # name -> layers of a dense block
FOREIGN = {
    **{f"block{n}.layer.": f"block{n}." for n in (1, 2, 3)},
    "fc.": "classifier.",
}


class DenseLayer(nn.Module):
    """BN-ReLU-conv3x3 whose channels follow those of its input."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, _GROWTH, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, inputs + growth, H, W]."""
        return torch.cat([x, self.conv1(self.relu(self.bn1(x)))], 1)


class Transition(nn.Module):
    """BN-ReLU-conv1x1, average pool by 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, channels, H // 2, W // 2]."""
        out: Tensor = self.pool(self.conv1(self.relu(self.bn1(x))))
        return out


class DenseNet(nn.Module):
    """Bare convolution, three dense blocks with transitions between, BN-ReLU, global average pooling, `classifier`."""

    def __init__(self, layers: int, classes: int, channels: int) -> None:
        super().__init__()
        widths = [_STEM + n * layers * _GROWTH for n in range(4)]
        self.conv1 = nn.Conv2d(channels, _STEM, 3, 1, 1, bias=False)
        self.block1 = _dense(layers, widths[0])
        self.trans1 = Transition(widths[1])
        self.block2 = _dense(layers, widths[1])
        self.trans2 = Transition(widths[2])
        self.block3 = _dense(layers, widths[2])
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of normalised images [B, channels, H, W]."""
        x = self.trans1(self.block1(self.conv1(x)))
        x = self.block3(self.trans2(self.block2(x)))
        logits: Tensor = self.classifier(self.pool(self.relu(self.bn1(x))).flatten(1))
        return logits


def build(
    name: str, classes: int, channels: int, size: tuple[int, int], generator: torch.Generator | None
) -> nn.Module:
    """The network of that name.

    Raises:
        RecipeError: Images under 4x4 pixels, which its pools would shrink to nothing.
    """
    require_poolable(name, size, pools=2)
    layers = TABLE[name]
    return initialised(lambda: DenseNet(layers, classes, channels), generator)


def taps(network: nn.Module) -> dict[str, TapPoint]:
    """stem: the bare convolution; stage.i: the raw channels of dense block i; preact.i: those after the next BatchNorm;
    block.i: after the next BatchNorm and ReLU (of the transition, or of the network); pooled.
    """
    relus = ("trans1.relu", "trans2.relu", "relu")
    return {
        "stem": TapPoint("conv1", "output"),
        **{f"block.{n}": TapPoint(path, "output") for n, path in enumerate(relus, 1)},
        **{f"stage.{n}": TapPoint(f"block{n}", "output") for n in (1, 2, 3)},
        **{f"preact.{n}": TapPoint(path, "input") for n, path in enumerate(relus, 1)},
        "pooled": TapPoint("classifier", "input"),
    }


def _dense(layers: int, inputs: int) -> nn.Sequential:
    return nn.Sequential(*(DenseLayer(inputs + n * _GROWTH) for n in range(layers)))
