import pytest
import torch
import torch.nn.functional as F
from tolerances import DISTANCE_FP32, SAME_MAP_DISTANCE

from edgekd import models
from edgekd.distillers.pairs import map_pairs
from edgekd.taps import tapped


def maps(*sides: int, batch: int = 4, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(batch, side, side, generator=generator) for side in sides]


def naive(student: torch.Tensor, teacher: torch.Tensor, centre: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    s, t = F.adaptive_avg_pool2d(student, teacher.shape[1:]).flatten(1), teacher.flatten(1)
    if centre:
        s, t = s - s.mean(1, keepdim=True), t - t.mean(1, keepdim=True)
    s, t = F.normalize(s, dim=1), F.normalize(t, dim=1)
    return (s * t).sum(1), s - t


@pytest.mark.parametrize("sides", [((8, 8, 4), (8, 4, 4, 2)), ((4,), (8, 8)), ((5, 3), (7,)), ((8, 4, 8), (4, 8, 4))])
@pytest.mark.parametrize("centre", [False, True])
def test_cosines_and_distances_of_each_pair(sides, centre) -> None:
    student, teacher = maps(*sides[0]), maps(*sides[1], seed=1)
    cosine, distance = map_pairs(student, teacher, "mse", centre=centre)
    _, smooth = map_pairs(student, teacher, "smooth_l1", centre=centre)
    _, angular = map_pairs(student, teacher, "cosine", centre=centre)
    assert cosine.shape == (4, len(student), len(teacher))
    for i, s in enumerate(student):
        for j, t in enumerate(teacher):
            c, gap = naive(s, t, centre)
            assert torch.allclose(cosine[:, i, j], c, atol=DISTANCE_FP32)
            assert torch.allclose(distance[:, i, j], gap.square().mean(1), atol=DISTANCE_FP32)
            assert torch.allclose(distance[:, i, j], (2 - 2 * c) / t[0].numel(), atol=DISTANCE_FP32)
            near = F.smooth_l1_loss(gap, torch.zeros_like(gap), reduction="none").mean(1)
            assert torch.allclose(smooth[:, i, j], near, atol=DISTANCE_FP32)
            assert torch.allclose(angular[:, i, j], 1 - c, atol=DISTANCE_FP32)


@pytest.mark.parametrize("centre", [False, True])
def test_gradient_is_that_of_the_plain_form(centre) -> None:
    student, teacher = maps(8)[0].requires_grad_(), maps(4, seed=1)[0]
    (ours,) = torch.autograd.grad(map_pairs([student], [teacher], "mse", centre=centre)[1].sum(), student)
    (plain,) = torch.autograd.grad(naive(student, teacher, centre)[1].square().mean(1).sum(), student)
    assert torch.allclose(ours, plain, atol=DISTANCE_FP32)


def test_dead_maps_give_finite_distances_and_gradients() -> None:
    student = torch.zeros(2, 4, 4, requires_grad=True)
    teacher = maps(4, batch=2)[0]
    distance = map_pairs([student], [teacher], "mse")[1]
    distance.sum().backward()
    assert torch.allclose(distance, torch.full((2, 1, 1), 1 / 16))
    assert torch.isfinite(student.grad).all()
    assert map_pairs([student], [torch.zeros(2, 4, 4)], "mse")[1].abs().max() == 0


@pytest.mark.parametrize("side", [1, 4])
def test_flat_maps_have_no_shape_to_compare(side) -> None:
    student = torch.full((2, side, side), 0.3) + 1e-5 * maps(side, batch=2)[0]
    student.requires_grad_()
    teacher = maps(4, batch=2)[0]
    cosine, distance = map_pairs([student], [teacher], "mse", centre=True)
    distance.sum().backward()
    assert cosine.abs().max() == 0 and torch.allclose(distance, torch.full((2, 1, 1), 1 / 16))
    assert student.grad.abs().max() == 0


def test_a_network_is_at_distance_zero_from_itself() -> None:
    network = models.build("resnet20", classes=10, generator=torch.Generator().manual_seed(0)).eval()
    points = models.taps("resnet20", network)
    wanted = [(f"block.{n}", "energy") for n in range(1, 10)]
    with tapped(network, points, wanted, (0.5,) * 3, (0.2,) * 3) as net, torch.no_grad():
        taps = list(net(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)))[1].values())
    _, distance = map_pairs(taps, taps, "mse")
    assert distance.diagonal(dim1=1, dim2=2).max() <= SAME_MAP_DISTANCE
    assert distance.mean() > 100 * SAME_MAP_DISTANCE
