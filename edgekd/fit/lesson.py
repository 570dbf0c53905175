"""A step's forward as one module, so that DistributedDataParallel averages the gradients of student and method alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from edgekd.fit.distributed import Group

Loss = Callable[..., dict[str, Tensor]]


class Lesson(nn.Module):
    """A loss and the modules whose parameters it trains.

    Args:
        loss: Gives the loss terms.
        modules: What it runs.
    """

    def __init__(self, loss: Loss, *modules: nn.Module) -> None:
        super().__init__()
        self.loss, self.learners = loss, nn.ModuleList(modules)
        # Every process warns of a search for unused parameters that finds none; this one has no gradient and no optimizer.
        self.never_used = nn.Parameter(next(self.learners.parameters()).new_zeros(()))

    def forward(self, *args: Any) -> dict[str, Tensor]:
        """The loss terms."""
        return self.loss(*args)


def averaged(loss: Loss, group: Group, *modules: nn.Module) -> Loss:
    """The loss, with gradients that are means over the processes once it has gone backward; inside `Group.joined`.

    Buffers stay each process's own: BatchNorm's running statistics are no part of training, and rank 0's are kept. Unused
    parameters are looked for in every step: which terms a method computes may change from epoch to epoch.
    """
    if group.world == 1:
        return loss
    lesson = Lesson(loss, *modules)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # a newer name of this argument, which older versions lack
        return DistributedDataParallel(lesson, broadcast_buffers=False, find_unused_parameters=True)


def synchronised(network: nn.Module, group: Group, device: str) -> nn.Module:
    """The network with BatchNorm over the whole batch where torch has it (CUDA); its own BatchNorms elsewhere."""
    if group.world == 1 or group.batchnorm(device) == "process":
        return network
    made: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return made
