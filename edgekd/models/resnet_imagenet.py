"""ImageNet's ResNets for small images: four stages, a 3x3 stem without stride or pool ("ResNet18", "ResNet50").

Source: He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, 2016, table 1; the stem for small images, the
stride in the 3x3 convolution and the taps as in mdistiller and RepDistiller.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekd.models.initialise import initialised
from edgekd.models.resnet import BasicBlock
from edgekd.taps import TapPoint

_STEM = 64
_WIDTHS = (64, 128, 256, 512)

# name -> (blocks of each stage, outputs of a bottleneck to its width; None: basic blocks)
TABLE: dict[str, tuple[tuple[int, ...], int | None]] = {
    "resnet18_imagenet": ((2, 2, 2, 2), None),
    "resnet50_imagenet": ((3, 4, 6, 3), 4),
}
FOREIGN = {"linear.": "classifier."}


class Bottleneck(nn.Module):
    """conv1x1-BN-ReLU-conv3x3-BN-ReLU-conv1x1-BN, plus shortcut, ReLU."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(y)))))
        out: Tensor = self.relu3(y + self.shortcut(x))
        return out


class ResNet(nn.Module):
    """Stem, four stages, global average pooling, `classifier`."""

    def __init__(self, depths: tuple[int, ...], expansion: int | None, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, _STEM, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.relu = nn.ReLU()
        inputs = (_STEM, *(width * (expansion or 1) for width in _WIDTHS))
        self.layer1 = _stage(depths[0], inputs[0], _WIDTHS[0], inputs[1], 1, expansion)
        self.layer2 = _stage(depths[1], inputs[1], _WIDTHS[1], inputs[2], 2, expansion)
        self.layer3 = _stage(depths[2], inputs[2], _WIDTHS[2], inputs[3], 2, expansion)
        self.layer4 = _stage(depths[3], inputs[3], _WIDTHS[3], inputs[4], 2, expansion)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of normalised images [B, channels, H, W]."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


def build(
    name: str, classes: int, channels: int, size: tuple[int, int], generator: torch.Generator | None
) -> nn.Module:
    """The network of that name; any image size."""
    depths, expansion = TABLE[name]
    return initialised(lambda: ResNet(depths, expansion, classes, channels), generator)


def taps(network: nn.Module) -> dict[str, TapPoint]:
    """stem, block.i and stage.i after their ReLU; preact.i: the residual sum before the stage's last ReLU; pooled."""
    stages = [_last_relus(network.get_submodule(f"layer{n}"), f"layer{n}") for n in (1, 2, 3, 4)]
    flat = [path for stage in stages for path in stage]
    return {
        "stem": TapPoint("relu", "output"),
        **{f"block.{n}": TapPoint(path, "output") for n, path in enumerate(flat, 1)},
        **{f"stage.{n}": TapPoint(stage[-1], "output") for n, stage in enumerate(stages, 1)},
        **{f"preact.{n}": TapPoint(stage[-1], "input") for n, stage in enumerate(stages, 1)},
        "pooled": TapPoint("classifier", "input"),
    }


def _last_relus(stage: nn.Module, path: str) -> list[str]:
    return [
        f"{path}.{name}.{'relu2' if isinstance(block, BasicBlock) else 'relu3'}"
        for name, block in stage.named_children()
    ]


def _stage(depth: int, inputs: int, width: int, outputs: int, stride: int, expansion: int | None) -> nn.Sequential:
    def block(before: int, step: int) -> nn.Module:
        if expansion is None:
            return BasicBlock(before, outputs, step, "b")
        return Bottleneck(before, width, outputs, step)

    return nn.Sequential(block(inputs, stride), *(block(outputs, 1) for _ in range(depth - 1)))
