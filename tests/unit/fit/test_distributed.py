"""Several processes train what one would: the same images, the mean of their gradients, and one end for all."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import TCPStore

from edgekd import models
from edgekd.augment import draw
from edgekd.commands.processes import group_of
from edgekd.errors import EdgekdError, MissingTool, RecipeError, StageFailed, UsageError
from edgekd.fit import batches, checkpoint, ready, seeding
from edgekd.fit.batches import TrainingData
from edgekd.fit.board import Board
from edgekd.fit.cached import CachedViews
from edgekd.fit.distributed import FEWEST, Group
from edgekd.fit.protocol import Context, Progress
from edgekd.models.fold import fold_batchnorm
from edgekd.taps import Outputs, tapped
from tests.tolerances import PROCESSES_WEIGHTS
from tests.unit.fit import processes

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_parts_are_disjoint_even_and_whole(world: int) -> None:
    for n in range(FEWEST * world, 50):
        parts = [list(range(n))[Group(rank, world).part(n)] for rank in range(world)]
        assert [row for part in parts for row in part] == list(range(n))
        sizes = {len(part) for part in parts}
        assert max(sizes) - min(sizes) <= 1 and min(sizes) >= FEWEST


def stored() -> CachedViews:
    """Two views of each image, and made-up answers to them."""
    n = 2 * processes.IMAGES
    random = torch.Generator().manual_seed(6)
    drawn = draw(("crop2", "flip"), n, (16, 16), random)
    answers = torch.rand(n, 5, generator=random), torch.rand(n, processes.CLASSES, generator=random)
    first = torch.arange(processes.IMAGES) % 2
    return CachedViews(2, drawn, {"pooled:pooled": (5,)}, answers[0].half(), answers[1], first)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("views", [None, stored()], ids=["live", "cached"])
def test_the_processes_see_the_images_of_one(world: int, views: CachedViews | None) -> None:
    given = replace(processes.data(), augment=("crop2", "flip"), views=views)
    whole = list(batches.batches(given, 12, 7, 1, "cpu"))
    parts = zip(*(batches.batches(given, 12, 7, 1, "cpu", Group(r, world)) for r in range(world)), strict=True)
    for one, several in zip(whole, parts, strict=True):
        assert torch.equal(one.images, torch.cat([part.images for part in several]))
        assert torch.equal(one.labels, torch.cat([part.labels for part in several]))
        assert torch.equal(one.index, torch.cat([part.index for part in several]))
        assert {part.total for part in several} == {len(one.labels)}
        if one.seen is not None:
            assert torch.equal(one.seen.logits, torch.cat([part.seen.logits for part in several]))
            for tap, value in one.seen.taps.items():
                assert torch.equal(value, torch.cat([part.seen.taps[tap] for part in several]))


@pytest.mark.parametrize(
    ("n", "world", "steps"), [(27, 2, 2), (28, 2, 3), (29, 3, 2), (30, 3, 3), (25, 1, 2), (26, 1, 3), (3, 2, 0)]
)
def test_a_process_never_gets_fewer_than_two_images(n: int, world: int, steps: int) -> None:
    given = processes.data()
    cut = TrainingData(given.images[:n], given.labels[:n], ())
    for rank in range(world):
        seen = [len(batch.labels) for batch in batches.batches(cut, 12, 0, 0, "cpu", Group(rank, world))]
        assert len(seen) == steps == batches.count(n, 12, world)
        assert min(seen, default=FEWEST) >= FEWEST


@pytest.mark.parametrize(("size", "world"), [(33, 2), (64, 3), (2, 2)])
def test_a_batch_that_cannot_be_shared_evenly_is_refused(size: int, world: int) -> None:
    ready.check(processes.section(batch_size=size), "cpu", "student.fit")
    with pytest.raises(RecipeError, match=r"student\.fit\.batch_size") as caught:
        ready.check(processes.section(batch_size=size), "cpu", "student.fit", group=Group(0, world, 0, world))
    fitting = int(caught.value.hint.rpartition("=")[2])
    ready.check(processes.section(batch_size=fitting), "cpu", "student.fit", group=Group(0, world, 0, world))


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(MissingTool, match="2 processes on this machine and 1 GPUs"):
        ready.check(processes.section(), "cuda", "student.fit", group=Group(0, 2, 0, 2))


def test_one_process_needs_no_torch_distributed() -> None:
    code = (
        "import sys, edgekd.fit.distributed, edgekd.stages.joint, edgekd.commands.processes as p\n"
        "with p.group_of({}) as group: assert group.world == 1\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_an_environment_that_names_no_meeting_place_is_refused() -> None:
    with (
        pytest.raises(UsageError, match="WORLD_SIZE without LOCAL_RANK") as caught,
        group_of({"RANK": "0", "WORLD_SIZE": "2"}),
    ):
        pass
    assert caught.value.hint.startswith("torchrun --nproc-per-node")
    with group_of({"RANK": "0", "WORLD_SIZE": "1"}) as group:
        assert group.world == 1


@pytest.mark.parametrize("kind", [RecipeError, StageFailed, MissingTool, UsageError])
def test_an_error_comes_to_the_other_processes_as_it_was(kind: type[EdgekdError]) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    here, there = Board(store, 2), Board(store, 2)
    assert here.tell(kind("where", "found", "expected", "hint")).where == "where"
    with pytest.raises(kind) as caught:
        there.take()
    assert type(caught.value) is kind
    assert str(caught.value) == str(kind("where", "found", "expected", "hint"))
    assert type(there.tell(StageFailed("later", "another"))) is kind  # what was told first is why
    assert [here.is_first(), there.is_first()] == [True, False]


def reference(case: str) -> tuple[dict[str, torch.Tensor], list[float]]:
    """One process, plain torch: each half of a batch through the network by itself, the gradients' mean, one step.

    The running statistics are those of the first half alone. Gives the state and each epoch's mean loss.
    """
    fit, given = processes.section(), processes.data()
    student, teacher, distiller = processes.network(1), processes.network(2).eval(), processes.method(case)
    folded = fold_batchnorm(teacher)  # as the loop's: another rounding may turn RTK's choice of keys
    points = models.taps("resnet8", student)
    wanted, seen = distiller.wanted(list(points), list(points))
    random = seeding.generator(processes.SEED, "method")
    with (
        tapped(student, points, wanted, *processes.NORMAL) as pupil,
        tapped(folded, points, seen, *processes.NORMAL) as master,
    ):
        images = given.images[:2].permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            pupil.eval()
            shown = Outputs(*pupil(images)), Outputs(*master.eval()(images))
            pupil.train()
        distiller.setup(Context(student, teacher, *shown, given.labels, processes.CLASSES, random))
        distiller.train()
        weights = [*student.parameters(), *distiller.parameters()]
        momentum = [torch.zeros_like(weight) for weight in weights]
        step, losses = 0, []
        for epoch in range(fit.epochs):
            rate, total = fit.lr * (0.1 if epoch >= 3 else 1.0), 0.0
            for batch in batches.batches(given, fit.batch_size, processes.SEED, epoch, "cpu"):
                n = len(batch.labels)
                for half in (slice(0, (n + 1) // 2), slice((n + 1) // 2, n)):
                    before = {name: value.clone() for name, value in student.named_buffers()}
                    with torch.no_grad():
                        guide = Outputs(*master(batch.images[half]), batch.index[half])
                    outputs = Outputs(*pupil(batch.images[half]), batch.index[half])
                    progress = Progress(epoch, step, step / 20, random)
                    loss = sum(distiller(outputs, guide, batch.labels[half], progress).values())
                    part = len(batch.labels[half]) / n
                    (loss * part).backward()
                    total += float(loss.detach()) * part * n
                    if half.start:  # the second process keeps its own
                        student.load_state_dict(before, strict=False)
                with torch.no_grad():
                    for weight, speed in zip(weights, momentum, strict=True):
                        if weight.grad is not None:
                            speed.mul_(0.9).add_(weight.grad + fit.weight_decay * weight)
                            weight.sub_(rate * speed)
                            weight.grad = None
                step += 1
            losses.append(total / len(given.labels))
        assert step == 20
    return student.state_dict(), losses


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of each case."""
    folder = tmp_path_factory.mktemp("processes")
    started = processes.start(folder, processes.main, str(folder), *processes.MADE)
    assert started.ended() == [0, 0], started.said("err")
    return folder


@pytest.mark.parametrize("case", processes.MADE)
def test_two_processes_train_as_one_with_two_groups_of_images(trained: Path, case: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        wanted, losses = reference(case)
    finally:
        torch.set_num_threads(threads)
    found = load_file(trained / f"{case}.safetensors")
    start = processes.network(1).state_dict()
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert (found[name] - value).abs().max() <= PROCESSES_WEIGHTS, name
    moved = max(float((wanted[name] - start[name]).abs().max()) for name, _ in processes.network(1).named_parameters())
    assert moved > 1000 * PROCESSES_WEIGHTS
    _, rest = checkpoint.read(trained / case / "resume" / "epoch-000004.safetensors")
    assert [row["loss"] for row in rest["history"]] == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize(
    ("wrong", "code", "said"),
    [
        ("raises", RecipeError.exit_code, "distill.odd: wrong in rank 1"),
        ("nan", StageFailed.exit_code, "loss term 'ce' is nan"),
        ("drifts", StageFailed.exit_code, "the processes hold different weights"),
    ],
)
def test_what_ends_one_process_ends_all_with_one_message(tmp_path: Path, wrong: str, code: int, said: str) -> None:
    started = processes.start(tmp_path, processes.main, str(tmp_path), wrong)
    assert started.ended() == [code, code], started.said("err")
    assert started.said("err").count("error: ") == started.said("err").count(said) == 1, started.said("err")
    assert not list(tmp_path.glob("*.safetensors"))


def test_the_death_of_one_process_ends_the_other_without_torchrun(tmp_path: Path) -> None:
    started = processes.start(tmp_path, processes.main, str(tmp_path), "dies")
    assert started.ended() == [StageFailed.exit_code, -signal.SIGKILL], started.said("err")
    assert started.said("err").count("worker died") == 1
