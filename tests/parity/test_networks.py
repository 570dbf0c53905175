"""Networks of ours against torchvision's with the stem of small images: the same weights, in order, give the same logits."""

import pytest
import torch
from networks import seeded, settled, telling
from tolerances import DEEP_ERROR_TO_RANGE
from torch import nn
from torchvision.models import ShuffleNetV2, vgg
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from edgekd import models


def resnet(block: type[BasicBlock | Bottleneck], depths: list[int]) -> nn.Module:
    network = ResNet(block, depths, num_classes=10)
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return network


def shufflenet() -> nn.Module:
    network = ShuffleNetV2([4, 8, 4], [24, 116, 232, 464, 1024], num_classes=10)
    network.conv1[0], network.maxpool = nn.Conv2d(3, 24, 1, bias=False), nn.Identity()
    return network


def vggnet(letter: str) -> nn.Module:
    layers = list(vgg.make_layers(vgg.cfgs[letter], batch_norm=True))
    pools = [layer for layer in layers if isinstance(layer, nn.MaxPool2d)]
    kept = [layer for layer in layers if layer not in pools[3:]]
    return nn.Sequential(*kept, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


THEIRS = {
    "resnet18_imagenet": lambda: resnet(BasicBlock, [2, 2, 2, 2]),
    "resnet50_imagenet": lambda: resnet(Bottleneck, [3, 4, 6, 3]),
    "shufflenetv2_1x": shufflenet,
    "vgg11": lambda: vggnet("A"),
    "vgg13": lambda: vggnet("B"),
    "vgg16": lambda: vggnet("D"),
    "vgg19": lambda: vggnet("E"),
}


@pytest.mark.parametrize("name", THEIRS)
def test_same_weights_same_logits(name) -> None:
    images = torch.randn(4, 3, 32, 32, generator=seeded(1))
    ours = settled(models.build(name, classes=10, generator=seeded()), images, seeded(2))
    theirs = THEIRS[name]()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    with torch.no_grad():
        found, wanted = ours(images), theirs.eval()(images)
    assert telling(wanted)
    assert (found - wanted).abs().max() <= DEEP_ERROR_TO_RANGE * (wanted.max() - wanted.min())
