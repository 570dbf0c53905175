import pytest
import torch
from torch import nn

from edgekd.distillers.base import Context, Outputs, Progress
from edgekd.distillers.semckd import SemCKD
from edgekd.errors import RecipeError

STUDENT, TEACHER = [(4, 8, 8), (6, 4, 4)], [(5, 8, 8), (7, 4, 4), (8, 3, 2)]


def side(shapes: list[tuple[int, int, int]], seed: int, batch: int) -> Outputs:
    random = torch.Generator().manual_seed(seed)
    taps = {f"stage.{n}:map": torch.rand(batch, *shape, generator=random) for n, shape in enumerate(shapes, 1)}
    return Outputs(torch.randn(batch, 10, generator=random), taps)


def ready(batch: int, batch_size: int) -> tuple[SemCKD, Outputs, Outputs]:
    method = SemCKD(batch_size=batch_size)
    s, t = side(STUDENT, 1, batch), side(TEACHER, 2, batch)
    method.wanted(*([key.split(":")[0] for key in each.taps] for each in (s, t)))
    method.setup(Context(nn.Module(), None, s, t, torch.zeros(4).long(), 10, torch.Generator().manual_seed(3)))
    return method.eval(), s, t


def rows(outputs: Outputs, part: slice) -> Outputs:
    return Outputs(outputs.logits[part], {key: tap[part] for key, tap in outputs.taps.items()})


def loss(method: SemCKD, s: Outputs, t: Outputs) -> torch.Tensor:
    return method(s, t, torch.zeros(len(s.logits)).long(), Progress(0, 0, 0.0, torch.Generator()))["semckd"]


def attention(method: SemCKD, s: Outputs, t: Outputs) -> torch.Tensor:
    return method.attention(list(s.taps.values()), list(t.taps.values()))


def test_attention_sums_to_one_over_the_teachers_stages() -> None:
    method, s, t = ready(8, 8)
    alpha = attention(method, s, t)
    assert alpha.shape == (8, 2, 3)
    assert torch.allclose(alpha.sum(2), torch.ones(8, 2), atol=1e-6)
    assert not torch.allclose(alpha, torch.full_like(alpha, 1 / 3), atol=1e-3)


def test_a_larger_batch_is_the_mean_of_its_groups() -> None:
    method, s, t = ready(12, 4)
    parts = [slice(start, start + 4) for start in (0, 4, 8)]
    each = torch.stack([loss(method, rows(s, part), rows(t, part)) for part in parts])
    assert torch.allclose(loss(method, s, t), each.mean(), rtol=1e-5)
    assert not torch.allclose(attention(ready(12, 12)[0], s, t), attention(method, s, t), atol=1e-4)


def test_what_a_smaller_batch_lacks_counts_as_zeros() -> None:
    method, s, t = ready(6, 6)
    few = slice(0, 4)
    empty = [Outputs(side_.logits, {key: tap.clone() for key, tap in side_.taps.items()}) for side_ in (s, t)]
    for each in empty:
        for tap in each.taps.values():
            tap[4:] = 0
    assert torch.allclose(attention(method, rows(s, few), rows(t, few)), attention(method, *empty)[few], atol=1e-6)


@pytest.mark.parametrize("batch_size", [2, 6, 64])
def test_queries_and_keys_learn_whatever_the_batch(batch_size) -> None:
    method, s, t = ready(6, batch_size)
    loss(method.train(), s, t).backward()
    for layer in (*method.queries, *method.keys):
        assert any(p.grad.abs().sum() > 0 for p in layer.parameters())


def test_extra_parameters_are_as_said() -> None:
    widths = [64, 128, 256]
    method = SemCKD()
    random = torch.Generator().manual_seed(0)
    s, t = (Outputs(torch.zeros(2, 10), {"stage.1:map": torch.zeros(2, c, 1, 1)}) for c in (16, widths[0]))
    for n, width in enumerate(widths, 1):
        t.taps[f"stage.{n}:map"] = torch.zeros(2, width, 1, 1)
    method.wanted(["stage.1"], [f"stage.{n}" for n in (1, 2, 3)])
    method.setup(Context(nn.Module(), None, s, t, torch.zeros(4).long(), 10, random))
    bottlenecks = sum(p.numel() for p in method.bottlenecks.parameters())
    assert bottlenecks == sum(38 * c * c + 2 * 16 * c + 8 * c for c in widths)
    assert 3.2e6 < bottlenecks < 3.3e6


def test_a_network_of_tokens_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"distill\.use: the student has no feature maps"):
        SemCKD().wanted(["pooled"], ["stage.1", "pooled"])
