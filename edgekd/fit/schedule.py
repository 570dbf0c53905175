"""Learning rate as a pure function of the position in the run, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from edgekd.errors import RecipeError
from edgekd.recipe import Fit

STEP_DECAY = 0.1
DEFAULT_MILESTONES = (5 / 8, 3 / 4, 7 / 8)  # 150, 180, 210 of the standard protocol's 240 epochs
ONE_CYCLE_RISE = 0.3  # fraction of the run with a rising rate (Smith and Topin 2018, as in torch's OneCycleLR)
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = 1 / 25 / 1e4


def milestones(fit: Fit) -> tuple[int, ...]:
    """The epochs (counted from 1) after which the rate is divided by 10."""
    if fit.milestones is not None:
        return tuple(fit.milestones)
    return tuple(round(fit.epochs * part) for part in DEFAULT_MILESTONES)


def check(fit: Fit, where: str = "fit") -> None:
    """Refuse settings that contradict each other.

    Raises:
        RecipeError: Warm-up with one-cycle, warm-up longer than the run, or milestones outside it or not rising.
    """
    if fit.schedule == "one-cycle" and fit.warmup:
        raise RecipeError(f"{where}.warmup", f"{fit.warmup:g} with schedule one-cycle", "0: one-cycle has its own rise")
    if fit.warmup > fit.epochs:
        raise RecipeError(f"{where}.warmup", f"{fit.warmup:g} epochs of {fit.epochs}", "no more than fit.epochs")
    if fit.milestones is None:
        return
    if fit.schedule != "step":
        raise RecipeError(f"{where}.milestones", f"given with schedule {fit.schedule}", "schedule: step")
    if list(fit.milestones) != sorted(set(fit.milestones)) or any(m < 1 for m in fit.milestones):
        raise RecipeError(f"{where}.milestones", str(list(fit.milestones)), "rising epochs, the first >= 1")


def factor(fit: Fit, epoch: int, step: int, steps: int) -> float:
    """What the base rate is multiplied with at one step.

    Args:
        fit: The settings.
        epoch: Epoch counted from 1: with milestone 150 epoch 150 has the old rate, 151 the new one.
        step: Step inside the epoch, from 0.
        steps: Steps of an epoch, >= 1.

    Source: step rule of RepDistiller and mdistiller (`epoch > milestone`).
    """
    position = epoch - 1 + step / steps  # epochs done, in [0, epochs)
    if fit.schedule == "one-cycle":
        return _one_cycle((epoch - 1) * steps + step, fit.epochs * steps)
    rise = min(1.0, (position + 1 / steps) / fit.warmup) if fit.warmup else 1.0
    if fit.schedule == "cosine":
        return rise * 0.5 * (1 + math.cos(math.pi * position / fit.epochs))
    return rise * STEP_DECAY ** sum(epoch > milestone for milestone in milestones(fit))


def _one_cycle(step: int, total: int) -> float:
    top = max(ONE_CYCLE_RISE * total - 1, 1e-9)
    if step <= top:
        return _between(ONE_CYCLE_START, 1.0, step / top)
    return _between(1.0, ONE_CYCLE_END, (step - top) / max(total - 1 - top, 1e-9))


def _between(start: float, end: float, part: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * part))
