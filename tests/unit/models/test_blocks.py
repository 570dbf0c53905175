"""What a block does beyond its counts and shapes: what it passes on, where it activates."""

import pytest
import torch
import torch.nn.functional as F
from networks import seeded
from torch import nn

from edgekd import models
from edgekd.models.shuffle import ChannelShuffle

RELUS = {  # applied in one forward
    **{"vgg8": 5, "vgg19": 16},
    **{"resnet18_imagenet": 1 + 8 * 2, "resnet50_imagenet": 1 + 16 * 3, "mobilenetv1": 1 + 13 * 2},
    **{"mobilenetv2_05": 1 + 17 * 2 + 1, "shufflenetv1": 1 + 16 * 3, "shufflenetv2_1x": 1 + 3 * 3 + 13 * 2 + 1},
    **{"densenet40": 36 + 2 + 1, "densenet100": 96 + 2 + 1},
}


def silenced(name: str, block: str, norm: str) -> nn.Module:
    """That block of a network in eval mode, the output of its last BatchNorm 0."""
    network = models.build(name, classes=10, generator=seeded()).eval()
    last = network.get_submodule(f"{block}.{norm}")
    assert isinstance(last, nn.BatchNorm2d)
    nn.init.zeros_(last.weight)
    return network.get_submodule(block).requires_grad_(False)


@pytest.mark.parametrize(
    ("name", "block", "norm", "channels"),
    [
        ("resnet18_imagenet", "layer2.1", "bn2", 128),
        ("resnet50_imagenet", "layer1.1", "bn3", 256),
        ("mobilenetv2_05", "blocks.1.1", "conv.7", 12),
        ("shufflenetv1", "layer1.1", "bn3", 240),
    ],
)
def test_a_silenced_residual_block_passes_its_input_on(name, block, norm, channels) -> None:
    x = torch.rand(2, channels, 5, 5, generator=seeded(1))
    assert torch.equal(silenced(name, block, norm)(x), x)


def test_blocks_of_another_shape_have_no_residual() -> None:
    for block, channels in (("blocks.1.0", 8), ("blocks.2.0", 12)):
        x = torch.rand(2, channels, 4, 4, generator=seeded(1))
        assert silenced("mobilenetv2_05", block, "conv.7")(x).abs().sum() == 0


def test_shufflenetv1_shrinks_by_appending_its_pooled_input() -> None:
    x = torch.randn(2, 24, 6, 6, generator=seeded(1))
    y = silenced("shufflenetv1", "layer1.0", "bn3")(x)
    assert y[:, :216].abs().sum() == 0
    assert torch.equal(y[:, 216:], F.avg_pool2d(x, 3, 2, 1).relu())


def test_shufflenetv2_leaves_half_of_the_channels_alone() -> None:
    x = torch.randn(2, 116, 4, 4, generator=seeded(1))
    y = silenced("shufflenetv2_1x", "layer1.1", "bn3")(x)
    assert torch.equal(y[:, 0::2], x[:, :58]) and y[:, 1::2].abs().sum() == 0


def test_a_dense_layer_appends_its_channels() -> None:
    network = models.build("densenet40", classes=10, generator=seeded()).eval()
    x = torch.randn(2, 28, 4, 4, generator=seeded(1))
    layer = network.block1[1]
    y = layer(x)
    assert torch.equal(y[:, :28], x)
    assert torch.equal(y[:, 28:], layer.conv1(layer.bn1(x).relu()))


def test_channel_shuffle_deals_the_groups_out_in_turn() -> None:
    x = torch.arange(6.0).view(1, 6, 1, 1).expand(2, 6, 3, 5)
    assert ChannelShuffle(3)(x)[1, :, 0, 0].tolist() == [0, 2, 4, 1, 3, 5]
    assert ChannelShuffle(2)(x)[0, :, 2, 4].tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize("name", RELUS)
def test_activations(name) -> None:
    network = models.build(name, classes=10, size=(8, 8)).eval()
    calls = []
    for module in network.modules():
        if not list(module.children()) and not isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            module.register_forward_hook(lambda module, args, output: calls.append(type(module)))
    network(torch.zeros(1, 3, 8, 8))
    assert calls.count(nn.ReLU) == RELUS[name]
    plain = {nn.ReLU, nn.Identity, ChannelShuffle, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d}
    assert set(calls) <= plain
