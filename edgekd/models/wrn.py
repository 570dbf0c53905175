"""Wide ResNets: three stages of pre-activation blocks, `wrn_<depth>_<width>`.

Source: Zagoruyko, Komodakis, Wide Residual Networks, 2016, section 2; shortcut and taps as in mdistiller and
RepDistiller: where the width changes, a bare 1x1 convolution of the activated input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekd.models.initialise import initialised
from edgekd.taps import TapPoint

# name -> (blocks a stage, width factor)
TABLE: dict[str, tuple[int, int]] = {
    f"wrn_{depth}_{width}": ((depth - 4) // 6, width) for depth in (16, 40) for width in (1, 2)
}
FOREIGN: dict[str, str] = {}


class PreActBlock(nn.Module):
    """BN-ReLU-conv3x3-BN-ReLU-conv3x3, plus shortcut; no activation after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        active = self.relu1(self.bn1(x))
        y: Tensor = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return y + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """Bare convolution, three stages, BN-ReLU, global average pooling, `classifier`."""

    def __init__(self, blocks: int, width: int, classes: int, channels: int) -> None:
        super().__init__()
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.layer1 = _stage(blocks, widths[0], widths[1], 1)
        self.layer2 = _stage(blocks, widths[1], widths[2], 2)
        self.layer3 = _stage(blocks, widths[2], widths[3], 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of normalised images [B, channels, H, W]."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        logits: Tensor = self.classifier(self.pool(self.relu(self.bn1(x))).flatten(1))
        return logits


def build(
    name: str, classes: int, channels: int, size: tuple[int, int], generator: torch.Generator | None
) -> nn.Module:
    """The network of that name; any image size."""
    blocks, width = TABLE[name]
    return initialised(lambda: WideResNet(blocks, width, classes, channels), generator, zero_bias=True)


def taps(network: nn.Module) -> dict[str, TapPoint]:
    """stem: the bare convolution; stage.i: the raw residual sum; preact.i: that sum after the next BatchNorm;
    block.i: after the next BatchNorm and ReLU (of the next block, or of the network); pooled.
    """
    sizes = [len(network.get_submodule(f"layer{i}")) for i in (1, 2, 3)]  # type: ignore[arg-type]
    starts = [f"layer{i}.{n}" for i, size in enumerate(sizes, 1) for n in range(size)]
    activations = [*(f"{path}.relu1" for path in starts[1:]), "relu"]
    ends = [activations[sum(sizes[:i]) - 1] for i in (1, 2, 3)]
    return {
        "stem": TapPoint("conv1", "output"),
        **{f"block.{n}": TapPoint(path, "output") for n, path in enumerate(activations, 1)},
        **{f"stage.{n}": TapPoint(f"layer{n}", "output") for n in (1, 2, 3)},
        **{f"preact.{n}": TapPoint(path, "input") for n, path in enumerate(ends, 1)},
        "pooled": TapPoint("classifier", "input"),
    }


def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    first = PreActBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(PreActBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
