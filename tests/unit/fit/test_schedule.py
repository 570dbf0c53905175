from __future__ import annotations

import pytest

from edgekd.errors import RecipeError
from edgekd.fit import schedule
from edgekd.recipe import Fit

STEPS = 782  # 50,000 images in batches of 64


@pytest.mark.parametrize(
    ("epoch", "lr"),
    [(1, 0.05), (150, 0.05), (151, 0.005), (180, 0.005), (181, 5e-4), (210, 5e-4), (211, 5e-5), (240, 5e-5)],
)
def test_step_decays_after_the_milestone_epoch(epoch: int, lr: float) -> None:
    fit = Fit()
    for step in (0, STEPS - 1):
        assert fit.lr * schedule.factor(fit, epoch, step, STEPS) == pytest.approx(lr, rel=1e-12)


def test_default_milestones_are_those_of_the_protocol() -> None:
    assert schedule.milestones(Fit()) == (150, 180, 210)


def test_own_milestones() -> None:
    fit = Fit(epochs=10, milestones=[2, 4])
    assert [schedule.factor(fit, epoch, 0, 5) for epoch in (2, 3, 5)] == pytest.approx([1, 0.1, 0.01])


def test_one_cycle_rises_to_the_full_rate_and_falls_to_almost_nothing() -> None:
    fit = Fit(epochs=10, schedule="one-cycle")
    rates = [schedule.factor(fit, epoch, step, 20) for epoch in range(1, 11) for step in range(20)]
    top = rates.index(max(rates))
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == pytest.approx(1, abs=1e-3)
    assert top == pytest.approx(0.3 * 200, abs=1)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(1 / 25 / 1e4)


def test_one_cycle_is_that_of_torch() -> None:
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=60, cycle_momentum=False)
    fit = Fit(epochs=3, schedule="one-cycle")
    for number in range(60):
        assert schedule.factor(fit, number // 20 + 1, number % 20, 20) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if number < 59:
            reference.step()


def test_cosine_starts_full_and_ends_near_zero() -> None:
    fit = Fit(epochs=4, schedule="cosine")
    rates = [schedule.factor(fit, epoch, step, 10) for epoch in range(1, 5) for step in range(10)]
    assert rates[0] == 1
    assert rates[20] == pytest.approx(0.5)
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.01


def test_warm_up_is_linear_and_ends() -> None:
    fit = Fit(epochs=10, warmup=2, milestones=[8])
    rates = [schedule.factor(fit, epoch, step, 10) for epoch in (1, 2, 3) for step in range(10)]
    assert rates[0] == pytest.approx(1 / 20)
    assert rates[9] == pytest.approx(0.5)
    assert rates[19:] == pytest.approx([1] * 11)


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "one-cycle", "warmup": 1},
        {"epochs": 2, "warmup": 3},
        {"schedule": "cosine", "milestones": [1]},
        {"milestones": [5, 3]},
        {"milestones": [0, 3]},
    ],
)
def test_contradictions_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=r"student\.fit\."):
        schedule.check(Fit.model_validate(settings), "student.fit")
