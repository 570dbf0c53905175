import pytest
from madeup import ready, stages
from torch import nn

from edgekd.distillers.fitnet import FitNet, Regressor
from edgekd.errors import RecipeError

SHAPES = stages((4, 8, 8), (6, 4, 4))
KERNELS = [
    ((32, 32), (16, 16), (3, 3), (2, 2), False),
    ((33, 33), (17, 17), (3, 3), (2, 2), False),
    ((8, 8), (16, 16), (4, 4), (2, 2), False),
    ((8, 8), (8, 8), (1, 1), (1, 1), False),
    ((8, 8), (6, 6), (3, 3), (1, 1), False),
    ((9, 7), (3, 5), (7, 3), (1, 1), False),
    ((16, 16), (4, 4), (1, 1), (1, 1), True),  # 13x13 would fit, and be 169 times the weights
    ((8, 8), (12, 12), (1, 1), (1, 1), True),
    ((8, 4), (4, 8), (1, 1), (1, 1), True),
]


@pytest.mark.parametrize(("student", "teacher", "kernel", "stride", "pooled"), KERNELS)
def test_the_kernel_follows_the_sizes(student, teacher, kernel, stride, pooled) -> None:
    regressor = Regressor((3, *student), (5, *teacher))
    convolution = regressor.layers[0]
    assert isinstance(convolution, nn.ConvTranspose2d) == (kernel == (4, 4))
    assert (convolution.kernel_size, convolution.stride, regressor.pooled) == (kernel, stride, pooled)


def test_the_layer_is_counted_from_the_stem() -> None:
    for layer, tap in ((0, "stem"), (1, "stage.1"), (2, "stage.2")):
        assert list(ready(FitNet(hint_layer=layer), SHAPES, SHAPES).teacher.taps) == [f"{tap}:map"]
    assert FitNet().hint_layer == 2


@pytest.mark.parametrize("networks", [(SHAPES, stages((4, 8, 8))), (stages((4, 8, 8)), SHAPES)])
def test_a_layer_that_a_network_lacks_is_an_error(networks) -> None:
    with pytest.raises(RecipeError, match=r"distill\.hint_layer: 2, and fitnet finds no stage\.2") as caught:
        FitNet().wanted(*map(list, networks))
    assert caught.value.hint == "--set distill.hint_layer=1"


def test_a_network_without_a_stem_and_one_without_maps() -> None:
    bare = [tap for tap in SHAPES if tap != "stem"]
    with pytest.raises(RecipeError, match="fitnet finds no stem in the student") as caught:
        FitNet(hint_layer=0).wanted(bare, list(SHAPES))
    assert caught.value.hint == "--set distill.hint_layer=1"
    with pytest.raises(RecipeError, match=r"distill\.use: the student has no feature maps, its taps are: pooled"):
        FitNet().wanted(["pooled"], list(SHAPES))
