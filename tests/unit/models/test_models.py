import subprocess
import sys

import pytest
import torch
from networks import SMALLEST, seeded
from torch import nn

from edgekd import models
from edgekd.errors import RecipeError
from edgekd.models.initialise import initialised
from edgekd.taps import tapped


def test_the_table_is_what_the_families_build() -> None:
    assert len(models.names()) == len(set(models.names())) == 32
    for name, family in models.describe():
        assert name in models.family(name).TABLE
        assert models.FAMILIES[name] == family
    tables = [name for family in dict.fromkeys(models.FAMILIES.values()) for name in _table(family)]
    assert sorted(tables) == sorted(models.names())


def _table(family: str) -> list[str]:
    name = next(name for name, other in models.FAMILIES.items() if other == family)
    return list(models.family(name).TABLE)


@pytest.mark.parametrize("name", models.names())
@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (17, 29))])
def test_any_image_gives_logits_alone_and_every_tap(name, channels, size) -> None:
    if "x4" in name and size != (8, 8):
        size = (9, 7)
    network = models.build(name, classes=7, channels=channels, size=size, generator=seeded()).eval()
    points = models.taps(name, network)
    wanted = [(tap, "map") for tap in points]
    with tapped(network, points, wanted, (0.5,) * channels, (0.2,) * channels) as net, torch.no_grad():
        logits, taps = net(torch.rand(2, channels, *size, generator=seeded(1)))
    assert logits.shape == (2, 7) and torch.isfinite(logits).all()
    assert len(taps) == len(points)
    assert isinstance(network.classifier, nn.Linear)
    assert not any(module.inplace for module in network.modules() if isinstance(module, nn.ReLU))


@pytest.mark.parametrize("name", models.names())
def test_every_parameter_learns(name) -> None:
    network = models.build(name, classes=7, size=(16, 16), generator=seeded())
    images = torch.randn(4, 3, 16, 16, generator=seeded(1))
    nn.functional.cross_entropy(network(images), torch.arange(4)).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
        layer, _, kind = key.rpartition(".")
        cancelled = kind == "bias" and isinstance(network.get_submodule(layer), nn.Conv2d)  # by the BatchNorm after it
        assert parameter.grad.abs().sum() > 0 or cancelled, key


@pytest.mark.parametrize("name", models.names())
def test_generator_alone_decides_weights_and_answers(name) -> None:
    images = torch.randn(3, 3, 8, 8, generator=seeded(1))
    found = []
    for seed in (3, 4):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        network = models.build(name, classes=5, size=(8, 8), generator=seeded())
        with torch.no_grad():
            state = {key: value.clone() for key, value in network.state_dict().items()}
            found.append({**state, "train": network(images), "eval": network.eval()(images), "again": network(images)})
        assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())
    assert torch.equal(found[0]["eval"], found[0]["again"]) and not torch.equal(found[0]["eval"], found[0]["train"])


def test_option_a_subsamples_and_pads_both_sides() -> None:
    network = models.build("resnet8_a", classes=10, generator=seeded())
    x = torch.randn(1, 16, 5, 5)
    y = network.layer2[0].shortcut(x)
    assert y.shape == (1, 32, 3, 3)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert y[:, :8].abs().sum() == y[:, 24:].abs().sum() == 0


def test_large_images_pass_a_fourth_pool_of_vgg() -> None:
    for size, pool in ((63, nn.Identity), (64, nn.MaxPool2d)):
        assert isinstance(models.build("vgg8", classes=10, size=(size, 80)).pool3, pool)


@pytest.mark.parametrize(("name", "least"), [("vgg8", 8), ("vgg19", 8), ("densenet40", 4)])
def test_images_too_small_to_pool(name, least) -> None:
    with pytest.raises(RecipeError, match=f"{least - 1}x20 pixels") as caught:
        models.build(name, classes=10, size=(least - 1, 20))
    assert str(least) in caught.value.expected and f"data.size={least}" in caught.value.hint
    network = models.build(name, classes=10, size=(least, least)).eval()
    assert network(torch.zeros(1, 3, least, least)).shape == (1, 10)


@pytest.mark.parametrize("name", [name for name in SMALLEST.values() if not name.startswith(("vgg", "dense"))])
def test_the_others_take_a_single_pixel(name) -> None:
    network = models.build(name, classes=10, size=(1, 1)).eval()
    assert network(torch.zeros(2, 3, 1, 1)).shape == (2, 10)


def test_weights_come_from_the_generator_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = models.build("resnet8", classes=10, generator=seeded(1)).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(4)
    second = models.build("resnet8", classes=10, generator=seeded(1)).state_dict()
    other = models.build("resnet8", classes=10, generator=seeded(2)).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    torch.manual_seed(5)
    free = models.build("resnet8", classes=10).state_dict()
    torch.manual_seed(5)
    assert torch.equal(free["conv1.weight"], models.build("resnet8", classes=10).state_dict()["conv1.weight"])


def test_initial_weights() -> None:
    network = models.build("resnet8x4", classes=10, generator=seeded())
    weight = network.layer3[0].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)  # fan-out
    assert network.classifier.weight.abs().max() <= 1 / 16
    assert network.classifier.bias.abs().sum() > 0
    wide = models.build("wrn_16_2", classes=10, generator=seeded())
    assert wide.classifier.bias.abs().sum() == 0
    for name in ("vgg8", "mobilenetv2_05"):
        network = models.build(name, classes=100, generator=seeded())
        assert network.classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert network.classifier.bias.abs().sum() == 0
    assert models.build("vgg8", classes=10).block0[0].bias.abs().sum() == 0
    drawn = initialised(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), seeded())
    assert torch.equal(drawn[1].weight, torch.ones(4)) and torch.equal(drawn[1].bias, torch.zeros(4))


def test_errors() -> None:
    with pytest.raises(RecipeError, match="resnett20") as caught:
        models.build("resnett20", classes=10)
    assert "resnet20" in caught.value.hint
    for bad in ({"classes": 1}, {"classes": 10, "channels": 0}, {"classes": 10, "size": (0, 3)}):
        with pytest.raises(RecipeError, match="model"):
            models.build("resnet8", **bad)


def test_listing_imports_no_torch() -> None:
    code = "import sys; from edgekd import models; models.describe(); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
