"""Layers of a method that are shipped with the student."""

import pytest
import torch
from torch import nn

from edgekd import models
from edgekd.errors import RecipeError
from edgekd.models.count import count
from edgekd.models.grafted import adapter, describe, graft, regraft, require_graftable
from edgekd.models.pooling import global_pool

LAYERS = [
    {"kind": "pool", "factor": 2},
    {"kind": "conv", "inputs": 64, "outputs": 20, "kernel": 1},
    {"kind": "bn", "channels": 20},
    {"kind": "relu"},
    {"kind": "conv", "inputs": 20, "outputs": 48, "kernel": 3},
]


def test_layers_are_made_of_what_describes_them() -> None:
    assert describe(adapter(LAYERS)) == LAYERS
    assert adapter(LAYERS)(torch.rand(2, 64, 8, 8)).shape == (2, 48, 4, 4)


@pytest.mark.parametrize("name", ["resnet8", "vgg8", "mobilenetv2_05", "torchvision:resnet18"])
def test_the_network_answers_through_the_layers_and_can_be_made_again(name) -> None:
    network = models.build(name, classes=5, size=(64, 64)).eval()
    channels = network.classifier.in_features
    layers = adapter([{"kind": "conv", "inputs": channels, "outputs": 24, "kernel": 1}, {"kind": "relu"}])
    classifier = nn.Linear(24, 5)
    images = torch.rand(2, 3, 64, 64)
    shown = []
    handle = network.get_submodule(global_pool(network)).register_forward_hook(
        lambda _, args, out: shown.append(args[0])
    )
    before = network(images)
    handle.remove()
    made = graft(network, layers, classifier)
    assert torch.allclose(made(images), classifier(layers(shown[0]).mean((2, 3))), atol=1e-5)
    assert torch.equal(network(images), before)
    again = regraft(models.build(name, classes=5, size=(64, 64)), made.graft)
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.eval()(images), made(images))
    old, new = count(network, 3, (64, 64)), count(made, 3, (64, 64))
    own = sum(p.numel() for p in network.classifier.parameters())
    assert new[0] == old[0] - own + channels * 24 + 24 * 5 + 5


def test_the_copy_shares_nothing() -> None:
    network, layers, classifier = models.build("resnet8", classes=5), adapter(LAYERS), nn.Linear(48, 5)
    made = graft(network, layers, classifier)
    ours = {p.data_ptr() for module in (network, layers, classifier) for p in module.parameters()}
    assert not ours & {p.data_ptr() for p in made.parameters()}


@pytest.mark.parametrize("name", ["torchvision:mobilenet_v3_small", "torchvision:mobilenet_v2"])
def test_a_network_with_more_than_a_pool_and_a_linear_layer_is_refused(name) -> None:
    network = models.build(name, classes=5, size=(64, 64))
    with pytest.raises(RecipeError, match="the teacher") as raised:
        require_graftable(network, 576, "teacher")
    assert "another method" in raised.value.hint
