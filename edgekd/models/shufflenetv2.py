"""ShuffleNetV2 for small images, `shufflenetv2_1x`.

Source: Ma, Zhang, Zheng, Sun, ShuffleNet V2, 2018, section 4 and table 5. The 1x1 stem without stride or pool and the
taps as in RepDistiller and mdistiller; the average pool is global here (there 4x4, the same at 32x32 pixels).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekd.models.initialise import initialised
from edgekd.models.shuffle import ChannelShuffle
from edgekd.taps import TapPoint

_STEM = 24

# name -> (outputs of each stage and of the last convolution, basic blocks of each stage)
TABLE: dict[str, tuple[tuple[int, int, int, int], tuple[int, int, int]]] = {
    "shufflenetv2_1x": ((116, 232, 464, 1024), (3, 7, 3))
}
FOREIGN = {"linear.": "classifier."}


class BasicUnit(nn.Module):
    """One half of the channels untouched, the other through conv1x1, depthwise conv3x3, conv1x1; joined, shuffled.

    Args:
        channels: Of input and output, even.
        last: The stage ends here: `preact` then shows both halves before the last ReLU, not shuffled.
    """

    def __init__(self, channels: int, last: bool) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.relu3 = nn.ReLU()
        self.preact = nn.Identity() if last else None
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> the same shape."""
        kept, y = x.chunk(2, 1)
        y = self.relu1(self.bn1(self.conv1(y)))
        y = self.bn3(self.conv3(self.bn2(self.conv2(y))))
        if self.preact is not None:
            self.preact(torch.cat([kept, y], 1))  # read by taps alone; a compiler drops it
        out: Tensor = self.shuffle(torch.cat([kept, self.relu3(y)], 1))
        return out


class DownUnit(nn.Module):
    """Two branches of stride 2 over all channels, joined and shuffled."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1 = nn.Conv2d(inputs, inputs, 3, 2, 1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = nn.Conv2d(inputs, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(inputs, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.relu3 = nn.ReLU()
        self.conv4 = nn.Conv2d(half, half, 3, 2, 1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)
        self.relu5 = nn.ReLU()
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, ceil(H / 2), ceil(W / 2)]."""
        left = self.relu2(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(self.relu3(self.bn3(self.conv3(x)))))
        right = self.relu5(self.bn5(self.conv5(right)))
        out: Tensor = self.shuffle(torch.cat([left, right], 1))
        return out


class ShuffleNetV2(nn.Module):
    """Stem, three stages, 1x1 convolution, global average pooling, `classifier`."""

    def __init__(
        self, widths: tuple[int, int, int, int], depths: tuple[int, int, int], classes: int, channels: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, _STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.relu1 = nn.ReLU()
        self.layer1 = _stage(depths[0], _STEM, widths[0])
        self.layer2 = _stage(depths[1], widths[0], widths[1])
        self.layer3 = _stage(depths[2], widths[1], widths[2])
        self.conv2 = nn.Conv2d(widths[2], widths[3], 1, bias=False)
        self.bn2 = nn.BatchNorm2d(widths[3])
        self.relu2 = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of normalised images [B, channels, H, W]."""
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


def build(
    name: str, classes: int, channels: int, size: tuple[int, int], generator: torch.Generator | None
) -> nn.Module:
    """The network of that name; any image size."""
    widths, depths = TABLE[name]
    return initialised(lambda: ShuffleNetV2(widths, depths, classes, channels), generator)


def taps(network: nn.Module) -> dict[str, TapPoint]:
    """stem after its ReLU; block.i and stage.i after their shuffle; preact.i: the stage's last block before its ReLU
    and shuffle; pooled.
    """
    stages = [
        [f"layer{n}.{name}" for name, _ in network.get_submodule(f"layer{n}").named_children()] for n in (1, 2, 3)
    ]
    flat = [path for stage in stages for path in stage]
    return {
        "stem": TapPoint("relu1", "output"),
        **{f"block.{n}": TapPoint(path, "output") for n, path in enumerate(flat, 1)},
        **{f"stage.{n}": TapPoint(stage[-1], "output") for n, stage in enumerate(stages, 1)},
        **{f"preact.{n}": TapPoint(f"{stage[-1]}.preact", "output") for n, stage in enumerate(stages, 1)},
        "pooled": TapPoint("classifier", "input"),
    }


def _stage(depth: int, inputs: int, outputs: int) -> nn.Sequential:
    basic = (BasicUnit(outputs, last=n == depth) for n in range(1, depth + 1))
    return nn.Sequential(DownUnit(inputs, outputs), *basic)
