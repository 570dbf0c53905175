"""Training from a teacher's stored answers: which view is shown when, and that it is the training that a live teacher gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from method_arguments import ARGUMENTS

from edgekd import methods, registry
from edgekd.augment import apply, draw
from edgekd.fit import batches, cached, seeding
from edgekd.fit.batches import TrainingData
from edgekd.fit.request import FitResult, Side
from edgekd.models.fold import fold_batchnorm
from edgekd.taps import Outputs, Tapped, tapped
from tests.tolerances import CACHED_LOSS, CACHED_WEIGHTS

VIEWS, SEED = 3, 0  # the seed of every fit of these tests
METHODS = sorted(
    name for name in registry.plugins("distillers") if methods.stored(name, ARGUMENTS.get(name, {})) is not None
)
Fitted = Callable[..., FitResult]


class Live(cached.CachedViews):
    """The same views with nothing stored: the teacher has to look on."""

    def outputs(self, rows: Any, index: Any, device: str) -> Any:
        return None


def stored(data: TrainingData, teacher: Side, use: str, kind: type[cached.CachedViews]) -> TrainingData:
    """The training data with views, and the teacher's answers to them."""
    n = len(data.labels)
    drawn = draw(data.augment, VIEWS * n, (16, 16), seeding.generator(9, "views"))
    wanted = cached.stored(*methods.stored(use, ARGUMENTS.get(use, {})), list(teacher.points))
    folded = fold_batchnorm(teacher.network)
    with tapped(folded, teacher.points, wanted, teacher.mean, teacher.std) as network, torch.no_grad():
        logits, taps = network.eval()(apply(data.images[torch.arange(VIEWS * n) % n], drawn))
    shapes = {key: tuple(tap.shape[1:]) for key, tap in taps.items()}
    records = cached.packed(taps) if taps else torch.empty(VIEWS * n, 0)
    first = torch.randint(VIEWS, (n,), generator=seeding.generator(SEED, "first view"))
    return replace(data, views=kind(VIEWS, drawn, shapes, records, logits, first))


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_methods_that_can_be_cached_are_found() -> None:
    assert {"kd", "afd", "rtk"} <= set(METHODS)
    assert "ce" not in METHODS


@pytest.mark.parametrize("use", METHODS)
@pytest.mark.parametrize("settings", [{}, {"ema": 0.9, "label_smoothing": 0.1}])
def test_a_cached_and_a_live_teacher_teach_the_same(
    fitted: Fitted,
    make_side: Callable[..., Side],
    data: TrainingData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    use: str,
    settings: dict[str, Any],
) -> None:
    calls: list[int] = []
    forward = Tapped.forward

    def spy(self: Tapped, images: torch.Tensor) -> Any:
        calls.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Tapped, "forward", spy)
    results, forwards = [], []
    for kind in (Live, cached.CachedViews):
        given = stored(data, make_side(2), use, kind)
        calls.clear()
        folder = tmp_path / kind.__name__
        results.append(fitted(use, given=given, folder=folder, teacher=make_side(2), epochs=1, lr=0.01, **settings))
        forwards.append(len(calls))
    live, stored_answers = results
    assert forwards[0] - forwards[1] == 3  # batches, each without a forward of the teacher
    for theirs, ours in zip(live.history, stored_answers.history, strict=True):
        for term in set(theirs) - {"epoch", "lr", "train_seconds", "images_per_second"}:
            assert ours[term] == pytest.approx(theirs[term], rel=CACHED_LOSS), term
    start, ours, theirs = (weights(n) for n in (make_side(1).network, stored_answers.network, live.network))
    assert (ours - theirs).norm() < CACHED_WEIGHTS * (theirs - start).norm()


@pytest.mark.parametrize("use", ["kd", "rtk"])
def test_other_answers_give_another_training(
    fitted: Fitted, make_side: Callable[..., Side], data: TrainingData, tmp_path: Path, use: str
) -> None:
    losses = []
    for seed in (2, 5):
        given = stored(data, make_side(seed), use, cached.CachedViews)
        losses.append(fitted(use, given=given, folder=tmp_path / str(seed), teacher=make_side(2)).history[-1]["kd"])
    assert abs(losses[0] / losses[1] - 1) > 10 * CACHED_LOSS


def test_every_image_shows_each_view_once_in_k_epochs(data: TrainingData, make_side: Callable[..., Side]) -> None:
    given = stored(data, make_side(2), "kd", cached.CachedViews)
    assert given.views is not None
    n, seen = len(data.labels), []
    for epoch in range(VIEWS):
        rows = given.views.rows(torch.arange(n), epoch)
        assert torch.equal(rows % n, torch.arange(n))
        seen.append(rows // n)
    assert torch.equal(torch.stack(seen).sort(dim=0).values, torch.arange(VIEWS).view(-1, 1).expand(VIEWS, n))
    assert set(seen[0].tolist()) == set(range(VIEWS))  # not all at the same one
    assert torch.equal(given.views.rows(torch.arange(n), VIEWS), given.views.rows(torch.arange(n), 0))


def test_a_batch_brings_the_answers_to_the_views_that_it_shows(
    data: TrainingData, make_side: Callable[..., Side]
) -> None:
    teacher = make_side(2)
    given = stored(data, teacher, "rtk", cached.CachedViews)
    folded = fold_batchnorm(teacher.network)
    wanted = cached.stored("block", ("energy", "pooled"), list(teacher.points))
    with tapped(folded, teacher.points, wanted, teacher.mean, teacher.std) as network, torch.no_grad():
        for batch in batches.batches(given, 32, SEED, 1, "cpu"):
            logits, taps = network.eval()(batch.images)
            seen = batch.seen
            assert isinstance(seen, Outputs) and torch.equal(seen.index, batch.index)
            assert torch.allclose(seen.logits, logits, atol=1e-5)
            assert list(seen.taps) == list(taps)
            for key, tap in taps.items():
                assert seen.taps[key].dtype == torch.float32
                assert torch.allclose(seen.taps[key], tap, rtol=1e-3, atol=1e-6), key


@pytest.mark.parametrize("use", ["kd", "rtk"])
def test_a_cached_run_that_was_stopped_ends_with_the_same_weights(
    fitted: Fitted, make_side: Callable[..., Side], data: TrainingData, tmp_path: Path, use: str
) -> None:
    given = stored(data, make_side(2), use, cached.CachedViews)
    whole = fitted(use, given=given, epochs=3, folder=tmp_path / "whole")

    def stop(network: Any) -> dict[str, float]:
        if len(list((tmp_path / "cut").glob("*.safetensors"))) == 1:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        fitted(use, given=given, epochs=3, folder=tmp_path / "cut", validate=stop)
    resumed = fitted(use, given=given, epochs=3, folder=tmp_path / "cut")
    ours, theirs = resumed.network.state_dict(), whole.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
