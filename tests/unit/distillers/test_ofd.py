import pytest
import torch
from madeup import ready, stages
from torch import nn

from edgekd import models
from edgekd.distillers.ofd import OFD, margin, partial_l2
from edgekd.errors import RecipeError
from edgekd.models.prenorm import norms_before

# The BatchNorm of each preact tap, as a reader of the network would name it.
NORMS = {
    "resnet8": ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"],
    "resnet8x4": ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"],
    "resnet20_a": ["layer1.2.bn2", "layer2.2.bn2", "layer3.2.bn2"],
    "wrn_16_1": ["layer2.0.bn1", "layer3.0.bn1", "bn1"],
    "vgg13": ["block1.4", "block2.4", "block3.4", "block4.4"],
    "resnet18_imagenet": ["layer1.1.bn2", "layer2.1.bn2", "layer3.1.bn2", "layer4.1.bn2"],
    "mobilenetv1": ["layers.3.4", "layers.5.4", "layers.11.4", "layers.13.4"],
    "densenet40": ["trans1.bn1", "trans2.bn1", "bn1"],
    "shufflenetv1": ["layer1.3.bn3", "layer2.7.bn3", "layer3.3.bn3"],
}


@pytest.mark.parametrize("name", NORMS)
def test_the_batchnorm_before_each_relu_is_found(name) -> None:
    network = models.build(name, classes=10)
    taps = [tap for tap in models.taps(name, network) if tap.startswith("preact.")]
    paths = {id(module): path for path, module in network.named_modules()}
    assert [paths.get(id(norm)) for norm in norms_before(network, taps)] == NORMS[name]


def test_bottlenecks_end_in_their_third_batchnorm() -> None:
    with torch.device("meta"):
        network = models.resnet_imagenet.ResNet((3, 4, 6, 3), 4, 10, 3)
    found = norms_before(network, ["preact.1", "preact.4"])
    assert found == [network.get_submodule("layer1.2.bn3"), network.get_submodule("layer4.2.bn3")]


def test_teachers_that_join_channels_before_the_relu_are_refused() -> None:
    teacher = models.build("shufflenetv2_1x", classes=10)
    shapes = stages((116, 8, 8), (232, 4, 4), (464, 2, 2), preact=True)
    with pytest.raises(
        RecipeError, match=r"distill\.use: ofd finds no BatchNorm before the ReLU of preact\.\d"
    ) as caught:
        ready(OFD(), stages((4, 8, 8), (6, 4, 4)), shapes, network=teacher)
    assert "reviewkd" in caught.value.hint


def test_teachers_without_maps_before_a_relu_are_refused_before_work() -> None:
    names = list(stages((4, 8, 8), (6, 4, 4)))
    with pytest.raises(RecipeError, match=r"distill\.use: ofd needs maps before their ReLU, and the teacher has none"):
        OFD().wanted([*names, "preact.1", "preact.2"], names)


def test_a_student_without_such_maps_shows_its_stages() -> None:
    names = list(stages((4, 8, 8), (6, 4, 4)))
    student, teacher = OFD().wanted(names, [*names, "preact.1", "preact.2"])
    assert student == [("stage.1", "map"), ("stage.2", "map")]
    assert teacher == [("preact.1", "map"), ("preact.2", "map")]


def test_a_margin_is_the_mean_of_the_negative_values() -> None:
    weight, bias = torch.tensor([1.0, -2.0, 0.5, 1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, -3.0, 4.0, -2.0, 2.0])
    draws = torch.randn(400_000, 3, generator=torch.Generator().manual_seed(0)) * weight[:3].abs() + bias[:3]
    negative = torch.stack([column[column < 0].mean() for column in draws.T])
    found = margin(weight, bias)
    assert torch.allclose(found[:3], negative, atol=0.01)  # n > 1e5 each: the standard error is under 0.004
    assert found[3] == -3.0  # below 0 once in 30,000: three deviations
    assert torch.allclose(found[4:], torch.tensor([-2.0, 0.0]), atol=1e-6)  # a constant channel


@pytest.mark.parametrize(
    ("student", "teacher", "squared"),
    [
        (2.0, 3.0, 1.0),  # a positive goal counts from both sides
        (5.0, 3.0, 4.0),
        (-4.0, 3.0, 49.0),
        (1.0, -0.5, 2.25),  # above a negative goal
        (-0.8, -0.5, 0.0),  # below it: the ReLU cuts both
        (1.0, -9.0, 4.0),  # a goal under the margin -1 counts as the margin
        (-3.0, -9.0, 0.0),
        (-3.0, 0.0, 0.0),
        (1.0, 0.0, 1.0),
    ],
)
def test_partial_l2_of_one_value(student, teacher, squared) -> None:
    s, t = (torch.full((2, 1, 3, 2), value) for value in (student, teacher))
    assert partial_l2(s, t, torch.tensor([-1.0])).item() == pytest.approx(6 * squared)


def test_deeper_stages_weigh_twice_as_much() -> None:
    shapes = stages((16, 4, 4), (32, 4, 4), (64, 4, 4), preact=True)
    pair = ready(OFD(beta=1.0), shapes, shapes, network=models.build("resnet8", classes=10))
    for n, connector in enumerate(pair.method.connectors):
        connector.forward = lambda s, t, n=n: torch.tensor(10.0**n)  # type: ignore[method-assign]
    assert pair()["ofd"].item() == pytest.approx(1 / 4 + 10 / 2 + 100)


def test_margins_are_not_trained_and_not_stored() -> None:
    shapes = stages((16, 4, 4), (32, 4, 4), (64, 4, 4), preact=True)
    method = ready(OFD(), shapes, shapes, network=models.build("resnet8", classes=10)).method
    assert not [key for key in method.state_dict() if "margins" in key]
    assert {type(module) for module in method.connectors[0].layers} == {nn.Conv2d, nn.BatchNorm2d}
