import pytest
import torch
from networks import seeded

from edgekd import models
from edgekd.models.count import count

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
    "vgg8": (3_965_028, 3_918_858, 96_192_512, 96_146_432, 2_944),
    "vgg11": (9_277_284, 9_231_114, 209_438_720, 209_392_640, 5_504),
    "vgg13": (9_462_180, 9_416_010, 284_936_192, 284_890_112, 5_888),
    "vgg16": (14_774_436, 14_728_266, 398_182_400, 398_136_320, 8_448),
    "vgg19": (20_086_692, 20_040_522, 511_428_608, 511_382_528, 11_008),
    "resnet18_imagenet": (11_220_132, 11_173_962, 555_468_800, 555_422_720, 9_600),
    "resnet50_imagenet": (23_705_252, 23_520_842, 1_298_014_208, 1_297_829_888, 53_120),
    "mobilenetv2_05": (812_836, 697_546, 6_523_648, 6_408_448, 18_368),
    "shufflenetv1": (949_258, 862_768, 38_691_456, 38_605_056, 23_736),
    "shufflenetv2_1x": (1_355_528, 1_263_278, 44_504_448, 44_412_288, 16_180),
    "densenet40": (1_060_132, None, 264_853_248, None, None),
    "densenet100": (7_084_852, None, 1_769_621_568, None, None),
    "mobilenetv1": (3_309_476, None, 46_446_592, None, None),
}
COUNTS_A = {"resnet20_a": (269_722, 40_551_040), "resnet56_a": (853_018, 125_485_696)}


@pytest.mark.parametrize("name", COUNTS)
def test_exact_counts(name) -> None:
    many, few = (models.build(name, classes=classes) for classes in (100, 10))
    (parameters, macs), (parameters_few, macs_few) = (count(network, 3, (32, 32)) for network in (many, few))
    buffers = sum(value.numel() for key, value in many.state_dict().items() if "running" in key)
    found = (parameters, parameters_few, macs, macs_few, buffers)
    known = [n for n, value in enumerate(COUNTS[name]) if value is not None]
    assert {0, 2} <= set(known)
    assert [found[n] for n in known] == [COUNTS[name][n] for n in known]


@pytest.mark.parametrize("name", COUNTS_A)
def test_exact_counts_without_shortcut_weights(name) -> None:
    assert count(models.build(name, classes=10), 3, (32, 32)) == COUNTS_A[name]


def test_every_network_with_weights_in_its_shortcuts_is_counted() -> None:
    assert set(COUNTS) == {name for name in models.names() if not name.endswith("_a")}


def test_counting_leaves_the_network_alone() -> None:
    network = models.build("resnet8", classes=10, generator=seeded())
    network.layer1.eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    count(network, 3, (32, 32))
    assert network.training and not network.layer1.training and network.layer2.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
