"""MobileNetV2 at half width for small images: seven groups of inverted residuals, `mobilenetv2_05`.

Source: Sandler, Howard, Zhu, Zhmoginov, Chen, MobileNetV2, 2018, table 2. Strides, plain ReLU instead of ReLU6 and the
taps as in mdistiller and RepDistiller; the average pool is global here (there 2x2, the same at 32x32 pixels).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekd.models.initialise import initialised
from edgekd.taps import TapPoint

_STEM, _LAST = 32, 1280  # the last convolution keeps its width below factor 1
_LINEAR_STD = 0.01
# expansion, channels, blocks, stride of the first, by group
_GROUPS = (
    *((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)
_STAGES = (1, 2, 4, 6)  # the groups whose output is stage.1 to stage.4

TABLE: dict[str, float] = {"mobilenetv2_05": 0.5}  # name -> width factor
FOREIGN = {"classifier.0.": "classifier."}


class InvertedResidual(nn.Module):
    """conv1x1-BN-ReLU, depthwise conv3x3-BN-ReLU, conv1x1-BN; plus the input where the shape stays. No last ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.conv = nn.Sequential(
            *(nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """Stem of stride 2, groups of blocks, 1x1 convolution, global average pooling, `classifier`."""

    def __init__(self, factor: float, classes: int, channels: int) -> None:
        super().__init__()
        inputs = int(_STEM * factor)
        self.conv1 = _conv_bn(channels, inputs, 3, 2)
        groups = []
        for expansion, width, depth, stride in _GROUPS:
            outputs = int(width * factor)
            groups.append(_group(inputs, outputs, depth, stride, expansion))
            inputs = outputs
        self.blocks = nn.Sequential(*groups)
        last = int(_LAST * max(factor, 1.0))
        self.conv2 = _conv_bn(inputs, last, 1, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of normalised images [B, channels, H, W]."""
        x = self.conv2(self.blocks(self.conv1(x)))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


def build(
    name: str, classes: int, channels: int, size: tuple[int, int], generator: torch.Generator | None
) -> nn.Module:
    """The network of that name; any image size."""
    factor = TABLE[name]
    return initialised(
        lambda: MobileNetV2(factor, classes, channels), generator, zero_bias=True, linear_std=_LINEAR_STD
    )


def taps(network: nn.Module) -> dict[str, TapPoint]:
    """stem after its ReLU; block.i: every inverted residual; stage.1 to stage.4: the end of groups 1, 2, 4, 6 (from 0);
    pooled. Blocks and stages are linear, so there is no preact.
    """
    blocks = [
        f"blocks.{name}.{n}"
        for name, group in network.get_submodule("blocks").named_children()
        for n, _ in enumerate(group.children())
    ]
    return {
        "stem": TapPoint("conv1", "output"),
        **{f"block.{n}": TapPoint(path, "output") for n, path in enumerate(blocks, 1)},
        **{f"stage.{n}": TapPoint(f"blocks.{group}", "output") for n, group in enumerate(_STAGES, 1)},
        "pooled": TapPoint("classifier", "input"),
    }


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _group(inputs: int, outputs: int, depth: int, stride: int, expansion: int) -> nn.Sequential:
    first = InvertedResidual(inputs, outputs, stride, expansion)
    return nn.Sequential(first, *(InvertedResidual(outputs, outputs, 1, expansion) for _ in range(depth - 1)))
