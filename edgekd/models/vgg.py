"""VGGs with BatchNorm for small images: five blocks of 3x3 convolutions, `vgg<convolutions + linear layers>`.

Source: Simonyan, Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, 2015, table 1. One
linear layer, a pool less, the eight-layer network and the taps as in mdistiller and RepDistiller.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekd.models.initialise import initialised
from edgekd.models.poolable import require_poolable
from edgekd.taps import TapPoint

_WIDTHS = (64, 128, 256, 512, 512)
_LINEAR_STD = 0.01
_POOLED_FOUR_TIMES = 64  # pixels: from here on a pool follows block 3 too

# name -> convolutions of each block
TABLE: dict[str, tuple[int, ...]] = {
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
FOREIGN: dict[str, str] = {}


class VGG(nn.Module):
    """Five blocks, each without its last ReLU, which stands after it; global average pooling; `classifier`."""

    def __init__(self, depths: tuple[int, ...], classes: int, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.block0 = _block(depths[0], channels, _WIDTHS[0])
        self.block1 = _block(depths[1], _WIDTHS[0], _WIDTHS[1])
        self.block2 = _block(depths[2], _WIDTHS[1], _WIDTHS[2])
        self.block3 = _block(depths[3], _WIDTHS[2], _WIDTHS[3])
        self.block4 = _block(depths[4], _WIDTHS[3], _WIDTHS[4])
        self.relu0, self.relu1, self.relu2, self.relu3, self.relu4 = (nn.ReLU() for _ in range(5))
        self.pool0, self.pool1, self.pool2 = (nn.MaxPool2d(2) for _ in range(3))
        self.pool3 = nn.MaxPool2d(2) if min(size) >= _POOLED_FOUR_TIMES else nn.Identity()
        self.pool4 = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(_WIDTHS[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of normalised images [B, channels, H, W]."""
        x = self.pool0(self.relu0(self.block0(x)))
        x = self.pool1(self.relu1(self.block1(x)))
        x = self.pool2(self.relu2(self.block2(x)))
        x = self.pool3(self.relu3(self.block3(x)))
        x = self.pool4(self.relu4(self.block4(x)))
        logits: Tensor = self.classifier(x.flatten(1))
        return logits


def build(
    name: str, classes: int, channels: int, size: tuple[int, int], generator: torch.Generator | None
) -> nn.Module:
    """The network of that name.

    Raises:
        RecipeError: Images under 8x8 pixels, which its pools would shrink to nothing.
    """
    require_poolable(name, size, pools=3)
    depths = TABLE[name]
    return initialised(lambda: VGG(depths, classes, channels, size), generator, zero_bias=True, linear_std=_LINEAR_STD)


def taps(network: nn.Module) -> dict[str, TapPoint]:
    """stem: the first block; block.1 to block.5; stage.1 to stage.4: the blocks after the first; all after their ReLU.
    preact.i: stage.i before that ReLU; pooled.
    """
    return {
        "stem": TapPoint("relu0", "output"),
        **{f"block.{n}": TapPoint(f"relu{n - 1}", "output") for n in range(1, 6)},
        **{f"stage.{n}": TapPoint(f"relu{n}", "output") for n in range(1, 5)},
        **{f"preact.{n}": TapPoint(f"relu{n}", "input") for n in range(1, 5)},
        "pooled": TapPoint("classifier", "input"),
    }


def _block(depth: int, inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n in range(depth):
        convolution = nn.Conv2d(inputs if n == 0 else outputs, outputs, 3, padding=1)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
