"""What can be known before the first step: settings that contradict each other, a device or compiler that is not there."""

from __future__ import annotations

import torch

from edgekd.errors import MissingTool
from edgekd.fit import compiling, schedule
from edgekd.recipe import Fit


def check(fit: Fit, device: str, where: str, *, compile_allowed: bool = True) -> None:
    """Raise what a fit with these settings on the resolved device would fail with.

    Raises:
        RecipeError: See `schedule.check`.
        MissingTool: torch cannot use the device, or cannot compile for it although told to.
    """
    schedule.check(fit, where)
    if (device == "cuda" and not torch.cuda.is_available()) or (
        device == "mps" and not torch.backends.mps.is_available()
    ):
        raise MissingTool(
            f"{where}.device",
            f"torch {torch.__version__} cannot use {device} here",
            "a driver that fits this build of torch",
            f"--set {where}.device=cpu",
        )
    compiling.decide(fit, 0, device, allowed=compile_allowed)
