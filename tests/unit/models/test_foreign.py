"""Networks of torchvision and timm: their counts, taps, classes, channels and weights at random."""

import pytest
import torch
from safetensors.torch import save_file
from tolerances import FOLDED_LOGITS
from torch import nn

from edgekd import models
from edgekd.errors import RecipeError
from edgekd.models.checkpoint import load_checkpoint
from edgekd.models.count import count
from edgekd.models.fold import fold_batchnorm
from edgekd.taps import tapped

MEAN, STD = (0.5,) * 3, (0.2,) * 3
SIDE = 64
# blocks as the papers count them (VGG: convolutions; DenseNet: dense blocks); (channels, side) of the stages at 64x64
SHAPES = {
    "resnet18": (8, [(64, 16), (128, 8), (256, 4), (512, 2)]),
    "mobilenet_v2": (17, [(16, 32), (24, 16), (32, 8), (96, 4), (320, 2)]),
    "mobilenet_v3_small": (11, [(16, 16), (24, 8), (48, 4), (96, 2)]),
    "shufflenet_v2_x0_5": (16, [(48, 8), (96, 4), (192, 2)]),
    "efficientnet_b0": (16, [(16, 32), (24, 16), (40, 8), (112, 4), (320, 2)]),
    "densenet121": (4, [(256, 16), (512, 8), (1024, 4), (1024, 2)]),
    "squeezenet1_1": (8, [(128, 15), (256, 7), (512, 3)]),
    "vgg11_bn": (8, [(64, 64), (128, 32), (256, 16), (512, 8), (512, 4)]),
    "convnext_tiny": (18, [(96, 16), (192, 8), (384, 4), (768, 2)]),
    "mnasnet0_5": (16, [(16, 16), (24, 8), (48, 4), (160, 2)]),
    "regnet_y_400mf": (16, [(48, 16), (104, 8), (208, 4), (440, 2)]),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(name: str, **changes) -> nn.Module:
    return models.build(name, **({"classes": 7, "size": (SIDE, SIDE), "generator": seeded()} | changes))


@pytest.mark.parametrize("name", SHAPES)
def test_a_torchvision_network(name) -> None:
    from torchvision.models import get_model_weights

    blocks, stages = SHAPES[name]
    network = build(f"torchvision:{name}")
    points = models.taps(f"torchvision:{name}", network)
    assert network.training and not any(module._forward_hooks for module in network.modules())
    assert not any(getattr(module, "inplace", False) for module in network.modules())
    head = network.classifier
    published = get_model_weights(name).DEFAULT.meta["num_params"]
    assert count(network, 3, (SIDE, SIDE))[0] == published - (1000 - 7) * (head.weight[0].numel() + 1)
    found = [tap for tap in points if tap.startswith("block.")]
    assert found == [f"block.{n}" for n in range(1, blocks + 1)]
    wanted = [(tap, "map") for tap in points]
    with tapped(network.eval(), points, wanted, MEAN, STD) as net, torch.no_grad():
        logits, taps = net(torch.rand(2, 3, SIDE, SIDE, generator=seeded(1)))
    assert logits.shape == (2, 7) and torch.isfinite(logits).all()
    assert [tuple(taps[f"stage.{n}:map"].shape[1:3]) for n in range(1, len(stages) + 1)] == stages
    assert f"stage.{len(stages) + 1}:map" not in taps
    assert torch.equal(taps[f"stage.{len(stages)}:map"], taps[f"block.{blocks}:map"])
    assert ("stem" in points) == (name != "vgg11_bn")
    with torch.no_grad():
        read = head(taps["pooled:map"])  # SqueezeNet's classifier is a convolution, pooled after it
        assert torch.allclose(read.relu().mean((2, 3)) if read.dim() == 4 else read, logits)


def test_weights_without_a_version_are_of_this_one(tmp_path) -> None:
    """MNASNet refuses a plain mapping, which is what a file and a training checkpoint give."""
    network, other = build("torchvision:mnasnet0_5"), build("torchvision:mnasnet0_5", generator=seeded(2))
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    load_checkpoint(other, tmp_path / "w.safetensors", "torchvision:mnasnet0_5")
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in network.state_dict().items())
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({})


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:mobilenet_v3_small"])
def test_a_folded_network_answers_the_same(name) -> None:
    network = build(name, size=(32, 32))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2, generator=seeded(1))
            module.running_var.uniform_(0.5, 1.5, generator=seeded(2))
    folded, images = fold_batchnorm(network), torch.rand(4, 3, 32, 32, generator=seeded(3))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        first, second = network.eval()(images), folded(images)
    assert (first - second).abs().max() <= FOLDED_LOGITS * (first.max() - first.min())


class Branching(nn.Module):
    """Control flow that hangs on the input: nothing can be looked through."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(self.conv(x if x.sum() > 0 else -x))
        return y


def test_what_cannot_be_looked_through_is_frozen_alone() -> None:
    folded = fold_batchnorm(Branching())
    assert isinstance(folded.norm, nn.BatchNorm2d) and not folded.training
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_weights_come_from_the_generator_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = build("torchvision:shufflenet_v2_x0_5").state_dict()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(4)
    second = build("torchvision:shufflenet_v2_x0_5").state_dict()
    other = build("torchvision:shufflenet_v2_x0_5", generator=seeded(1)).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["network.fc.weight"], other["network.fc.weight"])
    assert all(key.startswith("network.") for key in first)
    torch.manual_seed(5)
    free = build("torchvision:shufflenet_v2_x0_5", generator=None).state_dict()
    torch.manual_seed(5)
    again = build("torchvision:shufflenet_v2_x0_5", generator=None).state_dict()
    assert torch.equal(free["network.fc.weight"], again["network.fc.weight"])


def test_grey_images_are_answered_as_colour_images_without_colour() -> None:
    grey, colour = build("torchvision:squeezenet1_1", channels=1), build("torchvision:squeezenet1_1")
    images = torch.rand(2, 1, SIDE, SIDE, generator=seeded(1))
    with torch.no_grad():
        answers = grey.eval()(images), colour.eval()(images.expand(-1, 3, -1, -1))
    assert torch.allclose(*answers, atol=1e-5)


def test_statistics_follow_a_short_training() -> None:
    """MobileNetV3 and MNASNet ship with momenta of 0.01 and 0.0003."""
    for name in ("mobilenet_v3_small", "mnasnet0_5"):
        norms = [m for m in build(f"torchvision:{name}").modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms and {norm.momentum for norm in norms} == {0.1}


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_off(name) -> None:
    network = build(f"torchvision:{name}", size=(96, 96))
    logits = network(torch.rand(2, 3, 96, 96))
    assert isinstance(logits, torch.Tensor) and logits.shape == (2, 7)


def test_a_transformer_is_built_for_the_images_and_has_no_maps() -> None:
    network = build("torchvision:vit_b_16", size=(32, 32)).eval()
    assert list(models.taps("torchvision:vit_b_16", network)) == ["pooled"]
    with torch.no_grad():
        assert network(torch.rand(1, 3, 32, 32)).shape == (1, 7)


@pytest.mark.parametrize(
    ("name", "size"),
    [("vit_b_16", (40, 40)), ("maxvit_t", (64, 64)), ("inception_v3", (64, 64)), ("alexnet", (32, 32))],
)
def test_images_that_do_not_fit_are_named(name, size) -> None:
    with pytest.raises(
        RecipeError, match=f"torchvision:{name} does not take images of 3 channels, {size[0]}x{size[1]}"
    ):
        models.taps(f"torchvision:{name}", build(f"torchvision:{name}", size=size))


def test_the_batch_stays_free_in_onnx() -> None:
    import numpy as np
    from tolerances import ONNX_ERROR_TO_RANGE

    from edgekd import onnxfile, onnxrun
    from edgekd.stages import tracing

    network = build("torchvision:mobilenet_v3_small", size=(32, 32)).eval()
    session = onnxrun.session(onnxfile.to_bytes(tracing.trace(network, 3, (32, 32), 18)))
    images = torch.rand(3, 3, 32, 32, generator=seeded(1))
    with torch.no_grad():
        expected = network(images).numpy()
    found = onnxrun.infer(session, images.numpy())
    assert np.abs(found - expected).max() <= ONNX_ERROR_TO_RANGE * (expected.max() - expected.min())


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224"])
def test_a_timm_network(name) -> None:
    pytest.importorskip("timm", reason="needs timm: pip install 'edgekd[timm]'")
    network = build(f"timm:{name}", channels=1)
    points = models.taps(f"timm:{name}", network)
    wanted = [(tap, "map") for tap in points]
    with tapped(network.eval(), points, wanted, (0.5,), (0.2,)) as net, torch.no_grad():
        logits, taps = net(torch.rand(2, 1, SIDE, SIDE, generator=seeded(1)))
        assert torch.equal(network.classifier(taps["pooled:map"]), logits)
    stages = [tap for tap in points if tap.startswith("stage.")]
    assert len(stages) == (0 if name.startswith("vit") else 4)


def test_a_timm_network_with_two_classifiers_is_refused() -> None:
    pytest.importorskip("timm", reason="needs timm: pip install 'edgekd[timm]'")
    with pytest.raises(RecipeError, match="two classifiers"):
        build("timm:deit_tiny_distilled_patch16_224")
