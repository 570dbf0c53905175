import pytest
import torch
from networks import settled, telling
from torch import nn

from edgekd import models
from edgekd.distillers.base import Context, Outputs, Progress
from edgekd.distillers.simkd import SimKD
from edgekd.errors import RecipeError
from edgekd.taps import tapped

MEAN, STD = (0.0,) * 3, (1.0,) * 3


def networks(student: str, teacher: str, images: torch.Tensor):
    """Both with settled BatchNorms, their taps and their last maps."""
    random = torch.Generator().manual_seed(1)
    made = [settled(models.build(name, classes=10, generator=random), images, random) for name in (student, teacher)]
    points = [models.taps(name, network) for name, network in zip((student, teacher), made, strict=True)]
    return made, points, [seen(*pair, images) for pair in zip(made, points, strict=True)]


def seen(network: nn.Module, points, images: torch.Tensor) -> Outputs:
    wanted = [("last", "map")] if "last" in points else []
    with tapped(network, points, wanted, MEAN, STD) as watched, torch.no_grad():
        return Outputs(*watched(images))


def ready(method, made, points, outputs):
    method.wanted(*(list(side) for side in points))
    random = torch.Generator().manual_seed(2)
    method.setup(Context(*made, *outputs, torch.arange(10), 10, random))
    return method


PAIRS = [("resnet8", "resnet8x4"), ("wrn_16_1", "vgg8"), ("mobilenetv2_05", "resnet8")]


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_logits_while_training_are_those_of_the_deployed_network(student, teacher) -> None:
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    made, points, outputs = networks(student, teacher, images)
    method = ready(SimKD(), made, points, outputs).eval()
    settled(method.projector, outputs[0].taps["last:map"], torch.Generator().manual_seed(3))
    before = {name: value.clone() for name, value in made[0].state_dict().items()}
    deployed = method.deploy(made[0]).eval()
    with torch.no_grad():
        expected = method.classifier(method.projector(outputs[0].taps["last:map"]).mean((2, 3)))
        found = deployed(images)
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
    assert telling(found)
    assert all(torch.equal(value, before[name]) for name, value in made[0].state_dict().items())
    count = sum(p.numel() for p in deployed.parameters())
    student_head = sum(p.numel() for p in made[0].classifier.parameters())
    own = sum(p.numel() for p in method.parameters())
    assert count == sum(p.numel() for p in made[0].parameters()) - student_head + own


@pytest.mark.parametrize(
    "sizes", [((8, 8), (4, 4)), ((4, 4), (8, 8)), ((7, 7), (4, 4)), ((8, 2), (4, 4)), ((1, 1), (1, 1))]
)
def test_the_larger_map_is_pooled(sizes) -> None:
    made = [models.build(name, classes=10) for name in ("resnet8", "resnet8x4")]
    outputs = [
        Outputs(torch.zeros(2, 10), {"last:map": torch.rand(2, c, *size)})
        for c, size in zip((64, 256), sizes, strict=True)
    ]
    method = ready(SimKD(), made, [["last"], ["last"]], outputs)
    assert isinstance(method.projector[0], nn.AvgPool2d) == (sizes[0] == (8, 8))
    loss = method(*outputs, torch.zeros(2).long(), Progress(0, 0, 0.0, torch.Generator()))
    assert set(loss) == {"simkd"} and torch.isfinite(loss["simkd"])


def test_the_teachers_classifier_is_a_copy_that_does_not_learn() -> None:
    images = torch.rand(2, 3, 16, 16)
    made, points, outputs = networks("resnet8", "resnet8x4", images)
    method = ready(SimKD(), made, points, outputs)
    assert torch.equal(method.classifier.weight, made[1].classifier.weight)
    assert method.classifier.weight.data_ptr() != made[1].classifier.weight.data_ptr()
    listed = {id(p) for group in method.parameter_groups() for p in group["params"]}
    assert listed == {id(p) for p in method.projector.parameters()}
    assert made[1].classifier.weight.requires_grad


def test_networks_that_cannot_are_named() -> None:
    with pytest.raises(RecipeError, match="the teacher has no tap") as raised:
        SimKD().wanted(["last", "pooled"], ["stage.1", "pooled"])
    assert raised.value.where == "distill.use" and "another method" in raised.value.hint
    with pytest.raises(RecipeError, match="the student has no tap"):
        SimKD().wanted(["pooled"], ["last", "pooled"])


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_classifier_of_several_layers_is_refused(role) -> None:
    name = "torchvision:mobilenet_v3_small"  # two linear layers behind its pool
    pair = ("resnet8", name) if role == "teacher" else (name, "resnet8")
    made, points, outputs = networks(*pair, torch.rand(2, 3, 32, 32))
    with pytest.raises(RecipeError, match=f"the {role} has more than a pool"):
        ready(SimKD(), made, points, outputs)


def test_a_projector_without_channels_is_refused() -> None:
    made, points, outputs = networks("resnet8", "resnet8", torch.rand(2, 3, 16, 16))
    with pytest.raises(RecipeError, match=r"distill\.factor: found 65"):
        ready(SimKD(factor=65), made, points, outputs)
