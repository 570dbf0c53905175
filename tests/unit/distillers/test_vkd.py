import warnings

import pytest
import torch
from tolerances import ORTHOGONAL_FP32
from torch import nn

from edgekd import registry
from edgekd.distillers.base import Context, Outputs, Progress
from edgekd.distillers.vkd import VkD, Whitening
from edgekd.errors import RecipeError

WIDTHS = [(6, 6), (5, 16), (64, 256), (16, 5)]  # of student and teacher


def side(width: int, seed: int, batch: int = 8) -> Outputs:
    random = torch.Generator().manual_seed(seed)
    return Outputs(
        torch.randn(batch, 10, generator=random), {"pooled:pooled": torch.rand(batch, width, generator=random)}
    )


def ready(widths: tuple[int, int], **arguments) -> tuple[VkD, Outputs, Outputs]:
    s, t = side(widths[0], 1), side(widths[1], 2)
    method = VkD(**arguments)
    method.wanted(["pooled"], ["pooled"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method.setup(Context(nn.Module(), None, s, t, torch.zeros(8).long(), 10, torch.Generator().manual_seed(3)))
    return method, s, t


def off(matrix: torch.Tensor) -> float:
    """Largest entry by which its shorter side is not orthonormal."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    return float((tall.T @ tall - torch.eye(tall.shape[1])).abs().max())


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_the_map_stays_orthogonal(widths, optimizer) -> None:
    method, _, _ = ready(widths)
    before = method.projector.weight.detach().clone()
    assert before.shape == (widths[1], widths[0]) and off(before) < ORTHOGONAL_FP32
    steps = optimizer(method.parameter_groups(), lr=0.05, weight_decay=0.1)
    random = torch.Generator().manual_seed(4)
    for _ in range(100):
        steps.zero_grad()
        (method.projector.weight * torch.randn(before.shape, generator=random)).sum().backward()
        steps.step()
    after = method.projector.weight.detach()
    assert off(after) < ORTHOGONAL_FP32
    assert (after - before).abs().max() > 0.05


@pytest.mark.parametrize("widths", [pair for pair in WIDTHS if pair[0] <= pair[1]])
def test_inner_products_are_kept(widths) -> None:
    method, s, _ = ready(widths)
    x = s.taps["pooled:pooled"]
    turned = method.projector(x)
    assert torch.allclose(turned @ turned.T, x @ x.T, atol=1e-4)


def test_a_wider_student_is_warned_of() -> None:
    s, t = side(9, 1), side(4, 2)
    context = Context(nn.Module(), None, s, t, torch.zeros(8).long(), 10, torch.Generator())
    with pytest.warns(UserWarning, match="9 entries and the teacher's 4.*5 dimensions"):
        VkD().setup(context)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VkD().setup(Context(nn.Module(), None, t, s, torch.zeros(8).long(), 10, torch.Generator()))


def test_the_map_is_not_decayed_and_comes_back_from_its_state() -> None:
    method, s, t = ready((5, 16), norm="whiten")
    (group,) = method.parameter_groups()
    assert group["weight_decay"] == 0 and sum(p.numel() for p in group["params"]) == 5 * 16
    optimizer = torch.optim.SGD(method.parameter_groups(), lr=0.5)
    labels, progress = torch.zeros(8).long(), Progress(0, 0, 0.0, torch.Generator())
    method(s, t, labels, progress)["vkd"].backward()
    optimizer.step()
    other, _, _ = ready((5, 16), norm="whiten")
    assert not torch.equal(other.projector.weight, method.projector.weight)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.projector.weight, method.projector.weight)
    assert torch.equal(other(s, t, labels, progress)["vkd"], method(s, t, labels, progress)["vkd"])


def test_layernorm_is_of_each_image_and_standardise_of_each_channel() -> None:
    t = side(16, 2).taps["pooled:pooled"]
    by_image, by_channel = VkD().normalised(t), VkD(norm="standardise").normalised(t)
    assert torch.allclose(by_image.mean(1), torch.zeros(8), atol=1e-6)
    assert torch.allclose(by_image.var(1, correction=0), torch.ones(8), atol=1e-3)
    assert torch.allclose(by_channel.mean(0), torch.zeros(16), atol=1e-6)
    assert torch.allclose(by_channel.var(0, correction=0), torch.ones(16), atol=1e-3)


def test_whitening_decorrelates() -> None:
    random = torch.Generator().manual_seed(0)
    data = torch.randn(4000, 6, generator=random) @ torch.randn(6, 6, generator=random) + 3
    whole = Whitening(6)(data)
    assert torch.allclose(whole.T @ whole / 4000, torch.eye(6), atol=0.02)
    running = Whitening(6)  # batches too small for a covariance of their own
    for batch in data.split(10):
        last = running(batch)
    assert int(running.batches) == 400
    after = torch.cat([running.eval()(batch) for batch in data.split(10)])
    assert int(running.batches) == 400 and last.shape == (10, 6)
    assert torch.allclose(after.T @ after / 4000, torch.eye(6), atol=0.4)
    assert not torch.allclose((data - data.mean(0)).T @ (data - data.mean(0)) / 4000, torch.eye(6), atol=0.4)


def test_the_teacher_gets_no_gradient_and_the_norms_differ() -> None:
    seen = set()
    for norm in ("layernorm", "standardise", "whiten", "none"):
        method, s, t = ready((5, 16), norm=norm)
        t.taps["pooled:pooled"].requires_grad_()
        loss = method(s, t, torch.zeros(8).long(), Progress(0, 0, 0.0, torch.Generator()))["vkd"]
        loss.backward()
        assert t.taps["pooled:pooled"].grad is None
        seen.add(round(float(loss.detach()), 5))
    assert len(seen) == 4


def test_the_schema_refuses() -> None:
    for key, value in (("norm", "batchnorm"), ("beta", -1), ("alpha_kd", -0.1)):
        with pytest.raises(RecipeError, match=rf"distill\.{key}"):
            registry.check("distillers", "vkd", {key: value}, "distill")
