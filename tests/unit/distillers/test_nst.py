import pytest
import torch

from edgekd.distillers.nst import discrepancy

FEW, MANY = (3, 6, 8, 8), (3, 40, 3, 3)  # channels against 64 and 9 positions: both forms of the kernel


def maps(shape, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [FEW, MANY])
def test_channels_are_a_set_without_order_or_scale(shape) -> None:
    s, t = maps(shape, 1), maps(shape, 2)
    plain = discrepancy(s, t)
    order = torch.randperm(shape[1], generator=torch.Generator().manual_seed(3))
    scale = torch.linspace(0.1, 10, shape[1]).view(1, -1, 1, 1)
    assert torch.allclose(discrepancy(s[:, order] * scale, t), plain, rtol=1e-4)
    assert abs(float(discrepancy(s[:, order], s))) < 1e-6 < 1e-3 < float(plain)


@pytest.mark.parametrize("shape", [FEW, MANY])
def test_a_repeated_set_of_channels_is_the_same_distribution(shape) -> None:
    s = maps(shape, 1)
    assert abs(float(discrepancy(torch.cat([s, s], 1), s))) < 1e-6


def test_no_table_of_all_channels_at_all_positions_is_made(monkeypatch) -> None:
    seen = []
    bmm = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda x, y: seen.append(bmm(x, y)) or seen[-1])
    discrepancy(maps((2, 16, 32, 32), 1), maps((2, 24, 32, 32), 2))
    assert seen and max(value.numel() for value in seen) == 2 * 24 * 24
    discrepancy(maps((2, 300, 2, 2), 1), maps((2, 300, 2, 2), 2))
    assert len(seen) == 3
