from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from edgekd.distillers.base import Context, Outputs, Progress
from edgekd.distillers.crd import CRD
from edgekd.errors import RecipeError
from tests.unit.fit.processes import ENDS, FORKS

LABELS = torch.tensor([0] * 30 + [1] * 20 + [2] * 6 + [3] * 4)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sides(batch: int = 8) -> tuple[Outputs, Outputs]:
    draw = random(1)
    index = torch.randperm(len(LABELS), generator=draw)[:batch]
    made = [
        Outputs(torch.zeros(batch, 4), {"pooled:pooled": torch.rand(batch, c, generator=draw)}, index) for c in (5, 9)
    ]
    return made[0], made[1]


def ready(labels: torch.Tensor = LABELS, **arguments) -> CRD:
    method = CRD(**({"nce_k": 25, "dim": 8} | arguments))
    method.setup(Context(nn.Module(), None, *sides(), labels, 4, random(2)))
    return method


def part(outputs: Outputs, rows: slice) -> Outputs:
    return Outputs(outputs.logits[rows], {key: tap[rows] for key, tap in outputs.taps.items()}, outputs.index[rows])


def step(method: CRD, s: Outputs, t: Outputs, seed: int = 3) -> torch.Tensor:
    progress = Progress(0, 0, 0.0, random(seed))
    loss = method(s, t, torch.zeros(len(s.logits)).long(), progress)["crd"]
    loss.backward()
    method.after_backward(progress)
    return loss.detach()


def test_negatives_are_of_other_classes_and_each_once() -> None:
    method, index = ready(), torch.arange(60)
    drawn = method.negatives.draw(index, random())
    assert drawn.shape == (60, 25)
    assert (LABELS[drawn] != LABELS[index].unsqueeze(1)).all()
    assert all(len(row.unique()) == 25 for row in drawn)
    assert not torch.equal(drawn, method.negatives.draw(index, random(1)))


@pytest.mark.parametrize("k", [25, 31])  # without and with replacement
def test_every_image_of_another_class_is_as_likely(k) -> None:
    method, index = ready(nce_k=k), torch.tensor([0, 55])
    drawn = [method.negatives.draw(index, random(seed)) for seed in range(2000)]
    for row, label in enumerate(LABELS[index]):
        counts = torch.bincount(torch.cat([each[row] for each in drawn]), minlength=60)
        others = counts[label != LABELS].double()
        assert counts[label == LABELS].sum() == 0
        share = k / len(others)
        spread = share * (1 - (share if k == 25 else 1 / len(others)))
        apart = (others - 2000 * share) / (2000 * spread) ** 0.5
        assert apart.abs().max() < 4.5  # of 84 nearly normal numbers; 1 in 1,800 by chance, and the seeds are fixed
        assert 0.6 < apart.square().mean() < 1.6


def test_too_few_others_are_drawn_again() -> None:
    method = ready(nce_k=31)  # 30 images are of other classes than the first
    drawn = method.negatives.draw(torch.arange(60), random())
    assert drawn.shape == (60, 31)
    assert (LABELS[drawn] != LABELS.unsqueeze(1)).all()
    assert len(drawn[0].unique()) < 31
    assert not ready(nce_k=30).negatives.too_few


def test_one_class_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"distill\.use: all training images are of one class"):
        ready(torch.zeros(60).long())


def test_a_batch_that_is_not_known_is_refused() -> None:
    s, t = sides()
    with pytest.raises(RecipeError, match="which images"):
        step(ready(), Outputs(s.logits, s.taps), t)


def test_z_is_that_of_the_first_batch_and_comes_back() -> None:
    method, (s, t) = ready(), sides()
    assert (method.constants == 0).all()
    step(method, s, t)
    first = method.constants.clone()
    assert (first > 0).all() and first[0] != first[1]
    step(method, part(s, slice(0, 3)), part(t, slice(0, 3)), seed=4)
    assert torch.equal(method.constants, first)
    other = ready()
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.constants, first) and torch.equal(other.teacher_rows, method.teacher_rows)
    assert step(other, s, t) == step(method, s, t)


def test_only_rows_of_the_batch_move_and_only_after_the_backward_pass() -> None:
    method, (s, t) = ready(momentum=0.0), sides()
    before = method.student_rows.clone()
    progress = Progress(0, 0, 0.0, random(3))
    method(s, t, torch.zeros(8).long(), progress)
    assert torch.equal(method.student_rows, before)
    method.after_backward(progress)
    still = torch.ones(60, dtype=torch.bool)
    still[s.index] = False
    assert torch.equal(method.student_rows[still], before[still])
    x = s.taps["pooled:pooled"]
    assert torch.allclose(method.student_rows[s.index], nn.functional.normalize(method.student_embedding(x)), atol=1e-6)
    after = method.student_rows.clone()
    method.after_backward(progress)  # nothing new was seen
    assert torch.equal(method.student_rows, after)


def test_it_pulls_an_image_towards_its_own_class_and_off_the_others() -> None:
    method, draw = ready(nce_k=30, nce_temperature=0.5), random(5)
    whole = torch.arange(60)
    seen = [
        Outputs(torch.zeros(60, 4), {"pooled:pooled": LABELS.unsqueeze(1).eq(torch.arange(c)) + noise}, whole)
        for c in (5, 9)
        for noise in [0.1 * torch.randn(60, c, generator=draw)]
    ]
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    other = LABELS.unsqueeze(1) != LABELS

    def margin() -> float:
        ours = nn.functional.normalize(method.student_embedding(seen[0].taps["pooled:pooled"]))
        cosines = ours @ method.teacher_rows.T
        return float((cosines.diagonal().mean() - cosines[other].mean()).detach())

    losses, before = [], margin()
    for seed in range(100):
        optimizer.zero_grad()
        losses.append(float(step(method, *seen, seed)))
        optimizer.step()
    assert losses[-1] < losses[0]
    assert abs(before) < 0.1 and margin() > 0.5


def take_part(rank: int, folder: str) -> None:
    """One of two processes: 5 images here, 3 there."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    method, rows = ready(), slice(0, 5) if rank == 0 else slice(5, 8)
    step(method, *(part(side, rows) for side in sides()))
    torch.save(method.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_keep_the_same_rows_as_one(tmp_path: Path) -> None:
    both = [FORKS.Process(target=take_part, args=(rank, str(tmp_path))) for rank in (0, 1)]
    for each in both:
        each.start()
    for each in both:
        each.join(ENDS)
        assert each.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    alone = ready()
    step(alone, *sides())
    for name in ("student_rows", "teacher_rows"):
        assert torch.allclose(first[name], alone.state_dict()[name], atol=1e-6)
