import pytest
import torch

from edgekd.distillers.selection import attend, auto_k


def logits(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("select", ["topk", "all", "threshold", "argmax_ste", "stage_topk"])
def test_rows_sum_to_one_over_at_most_the_selected(select) -> None:
    alpha = attend(logits(5, 3, 7), select, 2, [4, 2, 1])
    most = {"topk": 2, "all": 7, "threshold": 6, "argmax_ste": 1, "stage_topk": 5}[select]
    assert torch.allclose(alpha.sum(-1), torch.ones(5, 3), atol=1e-6)
    assert (alpha > 0).sum(-1).max() <= most
    assert (alpha >= 0).all()


def test_topk_keeps_the_largest_and_the_ties() -> None:
    alpha = attend(torch.tensor([[0.0, 3.0, 1.0, 2.0], [1.0, 1.0, 1.0, 0.0]]), "topk", 2, [4])
    assert (alpha > 0).tolist() == [[False, True, False, True], [True, True, True, False]]


def test_stage_topk_selects_in_each_group() -> None:
    alpha = attend(torch.tensor([[9.0, 8.0, 7.0, 1.0]]), "stage_topk", 2, [3, 1])
    assert (alpha > 0).tolist() == [[True, True, False, True]]


def test_threshold_keeps_the_largest_of_a_uniform_row() -> None:
    assert torch.allclose(attend(torch.zeros(1, 4), "threshold", 2, [4]), torch.full((1, 4), 0.25))


def test_straight_through_has_the_gradient_of_the_softmax() -> None:
    e, weight = logits(2, 5).requires_grad_(), logits(2, 5).flip(0)
    (hard,) = torch.autograd.grad((attend(e, "argmax_ste", 2, [5]) * weight).sum(), e)
    (soft,) = torch.autograd.grad((e.softmax(-1) * weight).sum(), e)
    assert torch.equal(hard, soft)
    assert set(attend(e, "argmax_ste", 2, [5]).detach().flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("students", "teachers", "k"), [(9, 27, 3), (6, 18, 3), (18, 18, 2), (15, 27, 2), (3, 15, 5), (3, 1, 1), (9, 3, 2)]
)
def test_auto_k(students, teachers, k) -> None:
    assert auto_k(students, teachers) == k
