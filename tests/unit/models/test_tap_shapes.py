"""What each family's taps are: shapes (methods 1.4), and how blocks, stages and preact belong together."""

import pytest
import torch
from networks import seeded, settled

from edgekd import models
from edgekd.taps import tapped

_RESNET = [(16, 32), (16, 32), (32, 16), (64, 8)]
_VGG = [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]
SHAPES = {  # stem and stages (channels, side), pooled, the block that ends each stage
    "resnet20": (_RESNET, 64, (3, 6, 9)),
    "resnet110": (_RESNET, 64, (18, 36, 54)),
    "resnet56_a": (_RESNET, 64, (9, 18, 27)),
    "resnet8x4": ([(32, 32), (64, 32), (128, 16), (256, 8)], 256, (1, 2, 3)),
    "wrn_16_2": ([(16, 32), (32, 32), (64, 16), (128, 8)], 128, (2, 4, 6)),
    "wrn_40_1": (_RESNET, 64, (6, 12, 18)),
    "vgg8": (_VGG, 512, (2, 3, 4, 5)),
    "vgg13": (_VGG, 512, (2, 3, 4, 5)),
    "resnet18_imagenet": ([(64, 32), (64, 32), (128, 16), (256, 8), (512, 4)], 512, (2, 4, 6, 8)),
    "resnet50_imagenet": ([(64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)], 2048, (3, 7, 13, 16)),
    "mobilenetv2_05": ([(16, 16), (12, 16), (16, 8), (48, 4), (160, 2)], 1280, (3, 6, 13, 17)),
    "shufflenetv1": ([(24, 32), (240, 16), (480, 8), (960, 4)], 960, (4, 12, 16)),
    "shufflenetv2_1x": ([(24, 32), (116, 16), (232, 8), (464, 4)], 1024, (4, 12, 16)),
    # not in the source: one map of each resolution
    "densenet40": ([(16, 32), (160, 32), (304, 16), (448, 8)], 448, (1, 2, 3)),
    "mobilenetv1": ([(32, 32), (128, 16), (256, 8), (512, 4), (1024, 2)], 1024, (3, 5, 11, 13)),
}
RAW_STAGES = ("wrn", "densenet")  # families whose stages are sums or channels before the next BatchNorm and ReLU


def read(name: str, size: int = 32, channels: int = 3) -> dict[str, torch.Tensor]:
    network = models.build(name, classes=10, channels=channels, size=(size, size), generator=seeded())
    images = torch.rand(4, channels, size, size, generator=seeded(1))
    settled(network, images, seeded(2))
    points = models.taps(name, network)
    wanted = [(tap, "map") for tap in points]
    with tapped(network, points, wanted, (0.5,) * channels, (0.2,) * channels) as net, torch.no_grad():
        return {key.removesuffix(":map"): value for key, value in net(images[:2])[1].items()}


@pytest.fixture(scope="module", params=SHAPES)
def case(request):
    return request.param, read(request.param)


def test_shapes(case) -> None:
    name, taps = case
    shapes, width, ends = SHAPES[name]
    stages = [f"stage.{n}" for n in range(1, len(shapes))]
    assert [tap for tap in taps if tap.startswith("stage.")] == stages
    assert [tuple(taps[tap].shape[1:]) for tap in ("stem", *stages)] == [(c, side, side) for c, side in shapes]
    assert [tap for tap in taps if tap.startswith("block.")] == [f"block.{n}" for n in range(1, ends[-1] + 1)]
    sides = [taps[f"block.{n}"].shape[2] for n in range(1, ends[-1] + 1)]
    assert sides == sorted(sides, reverse=True)
    assert [taps[f"block.{n}"].shape for n in ends] == [taps[tap].shape for tap in stages]
    assert taps["pooled"].shape == (2, width)


def test_what_the_taps_hold(case) -> None:
    name, taps = case
    family = models.FAMILIES[name]
    for stage, end in enumerate(SHAPES[name][2], 1):
        block, whole, before = taps[f"block.{end}"], taps[f"stage.{stage}"], taps.get(f"preact.{stage}")
        assert torch.equal(block, whole) or family in RAW_STAGES
        if family == "mobilenetv2":
            assert before is None and whole.min() < 0  # linear bottleneck
            continue
        assert before.min() < 0 and before.shape == whole.shape
        active = before.relu()
        if family == "shufflenetv2":
            half = active.shape[1] // 2
            assert before[:, :half].min() >= 0 > before[:, half:].min()
            active = torch.stack([active[:, :half], active[:, half:]], 2).flatten(1, 2)
        assert torch.equal(block, active)
        if family in RAW_STAGES:
            assert whole.min() < 0 and not torch.equal(whole, before)


@pytest.mark.parametrize("name", [name for name in SHAPES if "mobilenetv2" not in name and "v2_1x" not in name])
def test_the_last_block_is_what_is_pooled(name) -> None:
    taps = read(name, size=16, channels=1)
    last = taps[f"block.{SHAPES[name][2][-1]}"]
    assert torch.allclose(last.mean((2, 3)), taps["pooled"], atol=1e-5)


def test_wrn_preact_is_the_raw_sum_after_the_next_norm() -> None:
    network = models.build("wrn_16_1", classes=10, generator=seeded()).eval()
    points = models.taps("wrn_16_1", network)
    wanted = [("stage.1", "map"), ("preact.1", "map"), ("stage.3", "map"), ("preact.3", "map")]
    with tapped(network, points, wanted, (0.5,) * 3, (0.2,) * 3) as net, torch.no_grad():
        _, taps = net(torch.rand(1, 3, 8, 8, generator=seeded(1)))
        assert torch.allclose(network.layer2[0].bn1(taps["stage.1:map"]), taps["preact.1:map"])
        assert torch.allclose(network.bn1(taps["stage.3:map"]), taps["preact.3:map"])
