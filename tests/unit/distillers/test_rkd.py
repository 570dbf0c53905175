import pytest
import torch

from edgekd.distillers.base import Outputs, Progress
from edgekd.distillers.rkd import RKD
from edgekd.errors import RecipeError


def vectors(batch: int = 7, width: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(seed))


def rkd(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    sides = [Outputs(torch.zeros(len(x), 3), {"pooled:pooled": x}) for x in (student, teacher)]
    return RKD()(*sides, torch.zeros(len(student)).long(), Progress(0, 0, 0.0, torch.Generator()))["rkd"]


def test_scaled_turned_and_moved_vectors_have_the_same_relations() -> None:
    x, y = vectors(), vectors(width=9, seed=1)
    turn = torch.linalg.qr(vectors(5, 5, seed=2))[0]
    for other in (3 * x, x @ turn, x + 4, 0.01 * x @ turn - 1):
        assert rkd(other, x) < 1e-8
        assert torch.allclose(rkd(other, y), rkd(x, y), rtol=1e-4)
    assert rkd(x * torch.linspace(0.5, 3, 5), x) > 0.1


@pytest.mark.parametrize("dead", ["all alike", "two alike"])
def test_vectors_that_coincide_have_finite_gradients(dead) -> None:
    x = vectors()
    if dead == "all alike":
        x = torch.ones_like(x)
    x[1] = x[0]
    x.requires_grad_()
    loss = rkd(x, vectors(seed=1))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all() and x.grad.abs().max() < 1e3
    if dead == "two alike":
        assert x.grad.abs().sum() > 0


def test_one_image_has_no_relations() -> None:
    assert rkd(vectors(1), vectors(1, seed=1)) == 0


@pytest.mark.parametrize("lacking", ["student", "teacher"])
def test_a_network_without_a_classifier_tap_is_named(lacking) -> None:
    sides = {"student": ["stage.1", "pooled"], "teacher": ["stage.1", "pooled"]} | {lacking: ["stage.1"]}
    with pytest.raises(RecipeError, match=rf"distill\.use: rkd .* the {lacking} has no such tap"):
        RKD().wanted(**sides)
