import pytest
import torch
from madeup import ready, stages

from edgekd.distillers.at import AT, energy_distance
from edgekd.fit.cached import stored

SHAPES = stages((4, 8, 8), (6, 4, 4), (8, 2, 2))
BLOCKS = [f"block.{n}" for n in range(1, 28)]


@pytest.mark.parametrize("factor", [1e-3, 7.0])
def test_the_scale_of_a_sample_does_not_matter(factor) -> None:
    random = torch.Generator().manual_seed(0)
    s, t = torch.rand(2, 5, 6, 6, generator=random)
    scale = torch.tensor([factor, 1.0, 2.0, factor, 3.0]).view(-1, 1, 1)
    assert torch.allclose(energy_distance(s * scale, t), energy_distance(s, t), rtol=1e-5)
    assert torch.allclose(energy_distance(s, t * scale), energy_distance(s, t), rtol=1e-5)
    assert float(energy_distance(s * scale, s)) < 1e-12 < float(energy_distance(s, t))


def test_a_dead_map_has_a_distance_and_a_gradient_without_nan() -> None:
    dead, live = torch.zeros(2, 4, 4, requires_grad=True), torch.rand(2, 4, 4)
    energy_distance(dead, live).backward()
    assert dead.grad is not None and torch.isfinite(dead.grad).all()


def test_of_two_numbers_of_stages_the_deepest_are_paired() -> None:
    pair = ready(AT(), stages((4, 8, 8), (6, 4, 4)), SHAPES)
    assert pair.method.student_taps == ["stage.1", "stage.2"]
    assert pair.method.teacher_taps == ["stage.2", "stage.3"]


def test_blocks_meet_at_the_same_fraction_of_depth() -> None:
    method = AT(taps="block")
    method.wanted(BLOCKS[:9], BLOCKS)
    assert method.student_taps == BLOCKS[:9]
    assert method.teacher_taps == [f"block.{n}" for n in range(3, 28, 3)]
    method.wanted(BLOCKS[:7], BLOCKS[:3])
    assert method.student_taps == ["block.2", "block.4", "block.7"]


@pytest.mark.parametrize("kind", ["stage", "block"])
def test_all_that_it_reads_of_the_teacher_is_stored(kind) -> None:
    method = AT(taps=kind)
    names = [*SHAPES, *BLOCKS]
    _, wanted = method.wanted(names, names)
    assert wanted and set(wanted) <= set(stored(method.taps, method.cached, names))
