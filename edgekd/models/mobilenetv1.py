"""MobileNetV1 at full width for small images: thirteen depthwise separable blocks, `mobilenetv1`.

Source: Howard et al., MobileNets, 2017, table 1, with a stem of stride 1; four stages as in mdistiller, so that it
pairs with ResNet-50.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekd.models.initialise import initialised
from edgekd.taps import TapPoint

_STEM = 32
# name -> (channels, stride) of each block
TABLE: dict[str, tuple[tuple[int, int], ...]] = {
    "mobilenetv1": (
        *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)),
        *((512, 2), *((512, 1),) * 5),
        *((1024, 2), (1024, 1)),
    )
}
_STAGES = (3, 5, 11, 13)  # the last block of each resolution after the first
FOREIGN = {"model.": "layers.", "fc.": "classifier."}


class MobileNet(nn.Module):
    """Stem and blocks, global average pooling, `classifier`."""

    def __init__(self, blocks: tuple[tuple[int, int], ...], classes: int, channels: int) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(channels, _STEM, 3, 1, 1, bias=False), nn.BatchNorm2d(_STEM), nn.ReLU())
        inputs = (_STEM, *(width for width, _ in blocks))
        separable = (_block(inputs[n], width, stride) for n, (width, stride) in enumerate(blocks))
        self.layers = nn.Sequential(stem, *separable)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of normalised images [B, channels, H, W]."""
        logits: Tensor = self.classifier(self.pool(self.layers(x)).flatten(1))
        return logits


def build(
    name: str, classes: int, channels: int, size: tuple[int, int], generator: torch.Generator | None
) -> nn.Module:
    """The network of that name; any image size."""
    blocks = TABLE[name]
    return initialised(lambda: MobileNet(blocks, classes, channels), generator)


def taps(network: nn.Module) -> dict[str, TapPoint]:
    """stem, block.i and stage.i after their ReLU; preact.i: before the stage's last ReLU; pooled."""
    blocks = range(1, len(network.get_submodule("layers")))  # type: ignore[arg-type]
    return {
        "stem": TapPoint("layers.0", "output"),
        **{f"block.{n}": TapPoint(f"layers.{n}", "output") for n in blocks},
        **{f"stage.{n}": TapPoint(f"layers.{block}", "output") for n, block in enumerate(_STAGES, 1)},
        **{f"preact.{n}": TapPoint(f"layers.{block}.5", "input") for n, block in enumerate(_STAGES, 1)},
        "pooled": TapPoint("classifier", "input"),
    }


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Depthwise conv3x3-BN-ReLU, conv1x1-BN-ReLU."""
    return nn.Sequential(
        *(nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False), nn.BatchNorm2d(inputs), nn.ReLU()),
        *(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()),
    )
