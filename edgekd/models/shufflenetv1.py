"""ShuffleNetV1 with three groups for small images, `shufflenetv1`.

Source: Zhang, Zhou, Lin, Sun, ShuffleNet, 2018, table 1 (g = 3). The 1x1 stem without stride or pool, the ReLU after
the depthwise convolution and the taps as in RepDistiller and mdistiller; the average pool is global here (there 4x4,
the same at 32x32 pixels).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekd.models.initialise import initialised
from edgekd.models.shuffle import ChannelShuffle
from edgekd.taps import TapPoint

_STEM = 24

# name -> (groups, outputs of each stage, blocks of each stage)
TABLE: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {"shufflenetv1": (3, (240, 480, 960), (4, 8, 4))}
FOREIGN = {"linear.": "classifier."}


class ShuffleUnit(nn.Module):
    """Grouped conv1x1-BN-ReLU, shuffle, depthwise conv3x3-BN-ReLU, grouped conv1x1-BN; joined with the input, ReLU.

    With stride 1 it is added to the input, with stride 2 the pooled input follows it as further channels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        own = outputs - inputs if stride == 2 else outputs
        width = own // 4
        before = 1 if inputs == _STEM else groups  # the stem is too narrow to group
        self.conv1 = nn.Conv2d(inputs, width, 1, groups=before, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.shuffle = ChannelShuffle(before) if before > 1 else nn.Identity()
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, own, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(own)
        self.shortcut = nn.AvgPool2d(3, 2, 1) if stride == 2 else nn.Identity()
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        y = self.shuffle(self.relu1(self.bn1(self.conv1(x))))
        y = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(y)))))
        kept = self.shortcut(x)
        out: Tensor = self.relu3(torch.cat([y, kept], 1) if self.stride == 2 else y + kept)
        return out


class ShuffleNet(nn.Module):
    """Stem, three stages, global average pooling, `classifier`."""

    def __init__(
        self, groups: int, widths: tuple[int, ...], depths: tuple[int, ...], classes: int, channels: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, _STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.relu = nn.ReLU()
        self.layer1 = _stage(depths[0], _STEM, widths[0], groups)
        self.layer2 = _stage(depths[1], widths[0], widths[1], groups)
        self.layer3 = _stage(depths[2], widths[1], widths[2], groups)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of normalised images [B, channels, H, W]."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


def build(
    name: str, classes: int, channels: int, size: tuple[int, int], generator: torch.Generator | None
) -> nn.Module:
    """The network of that name; any image size."""
    groups, widths, depths = TABLE[name]
    return initialised(lambda: ShuffleNet(groups, widths, depths, classes, channels), generator)


def taps(network: nn.Module) -> dict[str, TapPoint]:
    """stem, block.i and stage.i after their ReLU; preact.i: before the stage's last ReLU; pooled."""
    stages = [
        [f"layer{n}.{name}.relu3" for name, _ in network.get_submodule(f"layer{n}").named_children()] for n in (1, 2, 3)
    ]
    flat = [path for stage in stages for path in stage]
    return {
        "stem": TapPoint("relu", "output"),
        **{f"block.{n}": TapPoint(path, "output") for n, path in enumerate(flat, 1)},
        **{f"stage.{n}": TapPoint(stage[-1], "output") for n, stage in enumerate(stages, 1)},
        **{f"preact.{n}": TapPoint(stage[-1], "input") for n, stage in enumerate(stages, 1)},
        "pooled": TapPoint("classifier", "input"),
    }


def _stage(depth: int, inputs: int, outputs: int, groups: int) -> nn.Sequential:
    first = ShuffleUnit(inputs, outputs, 2, groups)
    return nn.Sequential(first, *(ShuffleUnit(outputs, outputs, 1, groups) for _ in range(depth - 1)))
