import pytest
import torch
from madeup import ready, stages

from edgekd.distillers.reviewkd import ReviewKD, hierarchical_context

MOBILENETV2 = stages((12, 16, 16), (16, 8, 8), (48, 4, 4), (160, 2, 2)) | {"pooled": (1280,)}
VGG13 = stages((128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 4, 4), preact=True)


def checkerboard(side: int) -> torch.Tensor:
    """Of +1 and -1: its pools to an even number of pixels each are 0."""
    places = torch.arange(side)
    return (1 - 2 * ((places[:, None] + places) % 2)).float().expand(2, 3, side, side)


@pytest.mark.parametrize(
    ("side", "weights"), [(8, 1 + 1 / 2 + 1 / 4 + 1 / 8), (4, 1 + 1 / 2 + 1 / 4), (2, 1 + 1 / 2), (1, 1)]
)
def test_the_grids_of_the_hierarchical_loss(side, weights) -> None:
    zeros = torch.zeros(2, 3, side, side)
    assert float(hierarchical_context(checkerboard(side), zeros)) == pytest.approx(1 / weights)
    assert float(hierarchical_context(zeros + 3, zeros)) == pytest.approx(9)


def test_weight_grows_for_the_first_epochs() -> None:
    shapes = stages((4, 8, 8), (6, 4, 4))
    pair = ready(ReviewKD(), shapes, shapes)
    values = [pair(epoch)["reviewkd"].item() for epoch in (0, 9, 19, 200)]
    assert [value / values[2] for value in values] == pytest.approx([1 / 20, 1 / 2, 1, 1], rel=1e-5)
    pair = ready(ReviewKD(warmup=1), shapes, shapes)
    assert pair(0)["reviewkd"].item() == pytest.approx(pair(200)["reviewkd"].item())


def test_levels_of_mobilenetv2_and_vgg13_are_those_of_the_source() -> None:
    pair = ready(ReviewKD(), MOBILENETV2, VGG13)
    fusions = pair.method.fusions
    assert [fusion.enter[0].in_channels for fusion in fusions] == [1280, 160, 48, 16, 12]
    assert [fusion.leave[0].out_channels for fusion in fusions] == [512, 512, 512, 256, 128]
    assert {fusion.enter[0].out_channels for fusion in fusions} == {512}
    sizes = []
    for fusion in fusions:
        fusion.leave.register_forward_hook(lambda *call: sizes.append(call[2].shape[2]))
    pair()
    assert sizes == [1, 4, 4, 8, 16]


def test_inside_it_is_as_wide_as_a_narrow_pooled_vector() -> None:
    shapes = stages((16, 8, 8), (32, 4, 4), (64, 2, 2))
    assert {fusion.enter[0].out_channels for fusion in ready(ReviewKD(), shapes, shapes).method.fusions} == {64}


def test_the_teacher_shows_its_maps_before_the_relu_where_it_has_them() -> None:
    _, teacher = ReviewKD().wanted(list(MOBILENETV2), list(VGG13))
    assert [tap for tap, _ in teacher] == ["pooled", "preact.4", "preact.3", "preact.2", "preact.1"]
    student, teacher = ReviewKD().wanted(list(VGG13), list(MOBILENETV2))
    assert [tap for tap, _ in student] == [tap for tap, _ in teacher]
    assert [tap for tap, _ in teacher] == ["pooled", "stage.4", "stage.3", "stage.2", "stage.1"]


def test_shallow_levels_see_the_deep_ones() -> None:
    shapes = stages((4, 8, 8), (6, 4, 4))
    pair = ready(ReviewKD(), shapes, shapes)
    shown: list[torch.Tensor] = []
    pair.method.fusions[-1].leave.register_forward_hook(lambda *call: shown.append(call[2]))
    pair()
    pooled, deep, shallow = pair.student.taps.values()
    shown[0].square().sum().backward()
    assert all(tap.grad is not None and tap.grad.abs().sum() > 0 for tap in (pooled, deep, shallow))
