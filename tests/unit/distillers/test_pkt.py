import torch

from edgekd.distillers.base import Outputs, Progress
from edgekd.distillers.pkt import PKT, neighbours


def vectors(batch: int = 7, width: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(seed))


def pkt(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    sides = [Outputs(torch.zeros(len(x), 3), {"pooled:pooled": x}) for x in (student, teacher)]
    return PKT()(*sides, torch.zeros(len(student)).long(), Progress(0, 0, 0.0, torch.Generator()))["pkt"]


def test_neighbours_are_distributions() -> None:
    p = neighbours(vectors())
    assert torch.allclose(p.sum(1), torch.ones(7)) and (p >= 0).all()
    assert (p.argmax(1) == torch.arange(7)).all()


def test_length_and_rotation_do_not_matter() -> None:
    x, y = vectors(), vectors(width=9, seed=1)
    turned = x @ torch.linalg.qr(vectors(5, 5, seed=2))[0]
    lengths = torch.linspace(0.1, 9, 7).unsqueeze(1)
    assert pkt(lengths * turned, x) < 1e-4 * pkt(y, x)
    assert torch.allclose(pkt(lengths * turned, y), pkt(x, y), rtol=1e-4)
    assert pkt(x + 2, x) > 1


def test_dead_and_opposite_vectors_have_finite_gradients() -> None:
    x = vectors()
    x[0], x[2] = 0, -x[1]
    x.requires_grad_()
    loss = pkt(x, vectors(seed=1))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all() and 0 < x.grad.abs().max() < 1e6
