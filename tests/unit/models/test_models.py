import subprocess
import sys

import pytest
import torch
from torch import nn

from edgekd import models
from edgekd.errors import RecipeError
from edgekd.models.count import count
from edgekd.models.initialise import initialised
from edgekd.taps import tapped

COUNTS = {  # parameters with 100 and 10 classes, MACs with 100 and 10, BatchNorm statistics (methods 1.3)
    "resnet8": (83_892, 78_042, 12_507_392, 12_501_632, 672),
    "resnet14": (181_108, 175_258, 26_663_168, 26_657_408, 1_120),
    "resnet20": (278_324, 272_474, 40_818_944, 40_813_184, 1_568),
    "resnet32": (472_756, 466_906, 69_130_496, 69_124_736, 2_464),
    "resnet44": (667_188, 661_338, 97_442_048, 97_436_288, 3_360),
    "resnet56": (861_620, 855_770, 125_753_600, 125_747_840, 4_256),
    "resnet110": (1_736_564, 1_730_714, 253_155_584, 253_149_824, 8_288),
    "resnet8x4": (1_233_540, 1_210_410, 177_071_104, 177_048_064, 2_752),
    "resnet32x4": (7_433_860, 7_410_730, 1_083_040_768, 1_083_017_728, 9_920),
    "wrn_16_1": (180_916, 175_066, 26_663_168, 26_657_408, 928),
    "wrn_16_2": (703_284, 691_674, 101_118_464, 101_106_944, 1_824),
    "wrn_40_1": (569_780, 563_930, 83_286_272, 83_280_512, 2_720),
    "wrn_40_2": (2_255_156, 2_243_546, 327_610_880, 327_599_360, 5_408),
}
COUNTS_A = {"resnet20_a": (269_722, 40_551_040), "resnet56_a": (853_018, 125_485_696)}
SHAPES = {  # stem and stages (channels, side), pooled (methods 1.4)
    "resnet20": ([(16, 32), (16, 32), (32, 16), (64, 8)], 64, 9),
    "resnet110": ([(16, 32), (16, 32), (32, 16), (64, 8)], 64, 54),
    "resnet56_a": ([(16, 32), (16, 32), (32, 16), (64, 8)], 64, 27),
    "resnet8x4": ([(32, 32), (64, 32), (128, 16), (256, 8)], 256, 3),
    "wrn_16_2": ([(16, 32), (32, 32), (64, 16), (128, 8)], 128, 6),
    "wrn_40_1": ([(16, 32), (16, 32), (32, 16), (64, 8)], 64, 18),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def statistics(network: nn.Module) -> int:
    return sum(m.running_mean.numel() + m.running_var.numel() for m in network.modules() if hasattr(m, "running_mean"))


@pytest.mark.parametrize("name", COUNTS)
def test_exact_counts(name) -> None:
    many, few, macs_many, macs_few, buffers = COUNTS[name]
    network = models.build(name, classes=100)
    assert count(network, 3, (32, 32)) == (many, macs_many)
    assert statistics(network) == buffers
    assert count(models.build(name, classes=10), 3, (32, 32)) == (few, macs_few)


@pytest.mark.parametrize("name", COUNTS_A)
def test_exact_counts_without_shortcut_weights(name) -> None:
    assert count(models.build(name, classes=10), 3, (32, 32)) == COUNTS_A[name]


def test_counting_leaves_the_network_alone() -> None:
    network = models.build("resnet8", classes=10)
    network.layer1.eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    count(network, 3, (32, 32))
    assert network.training and not network.layer1.training and network.layer2.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_the_table_is_what_the_families_build() -> None:
    assert len(models.names()) == 19
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


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_of_the_taps(name) -> None:
    shapes, width, blocks = SHAPES[name]
    network = models.build(name, classes=10, generator=seeded()).eval()
    points = models.taps(name, network)
    assert [tap for tap in points if tap.startswith("block.")] == [f"block.{n}" for n in range(1, blocks + 1)]
    with tapped(network, points, [(tap, "map") for tap in points], (0.5,) * 3, (0.2,) * 3) as net, torch.no_grad():
        _, taps = net(torch.rand(1, 3, 32, 32, generator=seeded(1)))
    names = ["stem", "stage.1", "stage.2", "stage.3"]
    assert [tuple(taps[f"{tap}:map"].shape[1:3]) for tap in names] == shapes
    assert [tuple(taps[f"preact.{n}:map"].shape[1:3]) for n in (1, 2, 3)] == shapes[1:]
    assert taps["pooled:map"].shape == (1, width)
    for stage in (1, 2, 3):
        last = taps[f"block.{blocks * stage // 3}:map"]
        assert torch.equal(last, taps[f"preact.{stage}:map"].relu())
        assert last.shape == taps[f"stage.{stage}:map"].shape
        assert taps[f"block.{blocks * (stage - 1) // 3 + 1}:map"].shape == last.shape
    assert torch.allclose(taps[f"block.{blocks}:map"].mean((2, 3)), taps["pooled:map"], atol=1e-5)


def test_wrn_stage_is_the_raw_sum_and_preact_its_next_norm() -> None:
    network = models.build("wrn_16_1", classes=10, generator=seeded()).eval()
    points = models.taps("wrn_16_1", network)
    wanted = [("stage.1", "map"), ("preact.1", "map"), ("stage.3", "map"), ("preact.3", "map")]
    with tapped(network, points, wanted, (0.5,) * 3, (0.2,) * 3) as net, torch.no_grad():
        _, taps = net(torch.rand(1, 3, 8, 8, generator=seeded(1)))
        assert torch.allclose(network.layer2[0].bn1(taps["stage.1:map"]), taps["preact.1:map"])
        assert torch.allclose(network.bn1(taps["stage.3:map"]), taps["preact.3:map"])


def test_option_a_subsamples_and_pads_both_sides() -> None:
    network = models.build("resnet8_a", classes=10, generator=seeded())
    x = torch.randn(1, 16, 5, 5)
    y = network.layer2[0].shortcut(x)
    assert y.shape == (1, 32, 3, 3)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert y[:, :8].abs().sum() == y[:, 24:].abs().sum() == 0


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
