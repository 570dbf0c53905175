"""CIFAR ResNets: three stages of basic blocks.

Source: He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, 2016, section 4.2. Projection shortcuts
(convolution and BatchNorm, "option B") and the x4 widths as in mdistiller and RepDistiller; the names that end in `_a`
have the paper's shortcut without weights ("option A"), as the published CIFAR-10 checkpoints of akamaster have.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.models.initialise import initialised
from edgekd.taps import TapPoint

_WIDTHS = (16, 16, 32, 64)
_X4 = (32, 64, 128, 256)

# name -> (blocks a stage, widths of stem and stages, shortcut option)
TABLE: dict[str, tuple[int, tuple[int, ...], str]] = {
    **{f"resnet{6 * n + 2}": (n, _WIDTHS, "b") for n in (1, 2, 3, 5, 7, 9, 18)},
    **{f"resnet{6 * n + 2}x4": (n, _X4, "b") for n in (1, 5)},
    **{f"resnet{6 * n + 2}_a": (n, _WIDTHS, "a") for n in (1, 3, 5, 7, 9, 18)},
}
FOREIGN = {"linear.": "classifier."}


class PaddedShortcut(nn.Module):
    """Every `stride`-th pixel, `extra` zero channels, half of them before and half after (no weights)."""

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self.stride, self.before, self.after = stride, extra // 2, extra - extra // 2

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C + extra, ceil(H / stride), ceil(W / stride)]."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """conv3x3-BN-ReLU-conv3x3-BN, plus shortcut, ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride, option)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(y + self.shortcut(x))
        return out


class ResNet(nn.Module):
    """Stem, three stages, global average pooling, `classifier`."""

    def __init__(self, blocks: int, widths: tuple[int, ...], option: str, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.layer1 = _stage(blocks, widths[0], widths[1], 1, option)
        self.layer2 = _stage(blocks, widths[1], widths[2], 2, option)
        self.layer3 = _stage(blocks, widths[2], widths[3], 2, option)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[3], classes)

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
    blocks, widths, option = TABLE[name]
    return initialised(lambda: ResNet(blocks, widths, option, classes, channels), generator)


def taps(network: nn.Module) -> dict[str, TapPoint]:
    """stem, block.i and stage.i after their ReLU; preact.i: the residual sum before the stage's last ReLU; pooled."""
    blocks = [[f"layer{i}.{n}" for n in range(len(network.get_submodule(f"layer{i}")))] for i in (1, 2, 3)]  # type: ignore[arg-type]
    flat = [path for stage in blocks for path in stage]
    last = [stage[-1] for stage in blocks]
    return {
        "stem": TapPoint("relu", "output"),
        **{f"block.{n}": TapPoint(f"{path}.relu2", "output") for n, path in enumerate(flat, 1)},
        **{f"stage.{n}": TapPoint(f"{path}.relu2", "output") for n, path in enumerate(last, 1)},
        **{f"preact.{n}": TapPoint(f"{path}.relu2", "input") for n, path in enumerate(last, 1)},
        "pooled": TapPoint("classifier", "input"),
    }


def _stage(blocks: int, inputs: int, outputs: int, stride: int, option: str) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride, option)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1, option) for _ in range(blocks - 1)))


def _shortcut(inputs: int, outputs: int, stride: int, option: str) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if option == "a":
        return PaddedShortcut(stride, outputs - inputs)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
