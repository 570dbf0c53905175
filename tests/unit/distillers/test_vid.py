import pytest
import torch
import torch.nn.functional as F
from madeup import ready, stages

from edgekd.distillers.vid import LEAST, VID, Gaussian

SHAPES = stages((4, 6, 6), (6, 3, 3))


def test_the_variances_begin_at_5_and_are_trained() -> None:
    method = ready(VID(), SHAPES, SHAPES).method
    rhos = [gaussian.rho for gaussian in method.gaussians]
    assert [len(rho) for rho in rhos] == [4, 6]
    for rho in rhos:
        assert torch.allclose(F.softplus(rho) + LEAST, torch.tensor(5.0))
    trained = {id(parameter) for group in method.parameter_groups() for parameter in group["params"]}
    assert {id(rho) for rho in rhos} <= trained


def test_the_best_variance_of_a_channel_is_its_mean_squared_error() -> None:
    random = torch.Generator().manual_seed(0)
    s, t = torch.randn(4, 3, 5, 5, generator=random), torch.randn(4, 2, 5, 5, generator=random)
    gaussian = Gaussian(3, 2)
    errors = (gaussian.regressor(s) - t).square().mean((0, 2, 3)).detach()
    with torch.no_grad():
        gaussian.rho.copy_(torch.log(torch.expm1(errors - LEAST)))
    gaussian(s, t).backward()
    best = gaussian.rho.grad.abs().max().item()
    with torch.no_grad():
        gaussian.rho.add_(0.5)
    gaussian.rho.grad = None
    gaussian(s, t).backward()
    assert best < 1e-6 < 1e-2 < gaussian.rho.grad.abs().min().item()


@pytest.mark.parametrize(("student", "teacher"), [((4, 6, 6), (9, 3, 4)), ((4, 3, 4), (9, 7, 6))])
def test_the_larger_map_comes_to_the_size_of_the_smaller(student, teacher) -> None:
    pair = ready(VID(), stages(student), stages(teacher))
    shapes = []
    pair.method.gaussians[0].regressor.register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape)))
    pair()
    assert shapes == [(3, 9, 3, 4)]
