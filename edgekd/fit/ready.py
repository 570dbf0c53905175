"""What can be known before the first step: settings that contradict each other, a device or compiler that is not there."""

from __future__ import annotations

import torch

from edgekd.errors import MissingTool, RecipeError
from edgekd.fit import best, compiling, schedule
from edgekd.fit.distributed import ALONE, BACKENDS, FEWEST, Group
from edgekd.recipe import Fit


def check(
    fit: Fit, device: str, where: str, *, compile_allowed: bool = True, group: Group = ALONE, val: int | None = None
) -> None:
    """Raise what a fit with these settings on the resolved device would fail with.

    Args:
        fit: The settings.
        device: The resolved device.
        where: The recipe's section.
        compile_allowed: False: this run compiles nothing.
        group: The processes that train together.
        val: Validation images, when their number is known.

    Raises:
        RecipeError: See `schedule.check` and `best.refuse`; a batch that the processes cannot share evenly.
        MissingTool: torch cannot use the device, or cannot compile for it although told to; more processes than GPUs.
    """
    schedule.check(fit, where)
    if val == 0:
        best.refuse(fit, where)
    if (device == "cuda" and not torch.cuda.is_available()) or (
        device == "mps" and not torch.backends.mps.is_available()
    ):
        raise MissingTool(
            f"{where}.device",
            f"torch {torch.__version__} cannot use {device} here",
            "a driver that fits this build of torch",
            f"--set {where}.device=cpu",
        )
    _check_shared(fit, device, where, group)
    compiling.decide(fit, 0, device, allowed=compile_allowed)


def _check_shared(fit: Fit, device: str, where: str, group: Group) -> None:
    """What several processes need beside what one needs."""
    if group.world == 1:
        return
    if fit.batch_size % group.world or fit.batch_size < FEWEST * group.world:
        fitting = max(fit.batch_size // group.world, FEWEST) * group.world
        raise RecipeError(
            f"{where}.batch_size",
            f"{fit.batch_size} images for {group.world} processes",
            f"a multiple of {group.world} that gives each at least {FEWEST}: it is the batch of all together",
            f"--set {where}.batch_size={fitting}",
        )
    gpus = torch.cuda.device_count() if device == "cuda" else group.local_world
    if device not in BACKENDS or gpus < group.local_world:
        raise MissingTool(
            f"{where}.device",
            f"{group.local_world} processes on this machine and {f'{gpus} GPUs' if device == 'cuda' else device}",
            "cpu, or a GPU for each process",
            f"torchrun --nproc-per-node {gpus if device == 'cuda' else 1}, or --set {where}.device=cpu",
        )
