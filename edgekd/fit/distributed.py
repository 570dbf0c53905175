"""The processes that train together under torchrun; alone there is one, and torch.distributed is not imported.

Every process sees its part of each batch; DistributedDataParallel averages the gradients. Rank 0 alone validates, writes
and reports. The process group stands while a fit runs; before and after it the processes share a `Board`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from edgekd.errors import EdgekdError, StageFailed
from edgekd.fit.board import Board

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
# Nobody is given up for being slow (a validation, a compilation): who dies closes its connections or is named by torchrun.
PATIENCE = timedelta(days=7)
SOURCE_LINE = re.compile(r"^\[\S+\] ")  # with which gloo's messages begin
FEWEST = 2  # images of a process in a batch: BatchNorm over one vector has no variance


@dataclass(frozen=True)
class Group:
    """The processes of one run.

    Attributes:
        rank: Of this process, 0 .. world - 1.
        world: Number of processes.
        local_rank: Of this process on its machine: the number of its GPU.
        local_world: Number of processes on this machine.
        board: What they share outside training; None alone.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    board: Board | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that validates, writes and reports."""
        return self.rank == 0

    @property
    def stream(self) -> tuple[int, ...]:
        """What a process adds to the name of a random stream of its own; nothing in rank 0, which draws as one process does."""
        return () if self.leads else (self.rank,)

    def part(self, n: int) -> slice:
        """This process's contiguous part of n images; parts differ by one image at most."""
        each, more = divmod(n, self.world)
        start = self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))

    def batchnorm(self, device: str) -> str:
        """Over which images BatchNorm takes its statistics while training: `batch` or `process` (rank 0's are kept)."""
        return "batch" if device == "cuda" or self.world == 1 else "process"

    def described(self, device: str) -> str:
        """The processes in words for the log; empty for one."""
        if self.world == 1:
            return ""
        over = {"batch": "the whole batch", "process": "each process's part, rank 0's running statistics kept"}
        return f", {self.world} processes, BatchNorm over {over[self.batchnorm(device)]}"

    @contextmanager
    def joined(self, device: str) -> Iterator[None]:
        """The process group, while the block runs in every process.

        Raises:
            EdgekdError: As the block raises, here or in another process.
            StageFailed: Another process died.
        """
        if self.board is None:
            yield
            return
        import torch
        import torch.distributed as dist
        from torch.distributed.distributed_c10d import PrefixStore

        if device == "cuda":
            torch.cuda.set_device(self.local_rank)
        store = PrefixStore(self.board.meet(), self.board.store)
        backend = BACKENDS[device]
        try:
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.world, timeout=PATIENCE)
            yield
        except (EdgekdError, KeyboardInterrupt) as error:  # told before the connections close: the others then look why
            raise self.board.tell(error) from error.__cause__
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
                raise
            raise self.board.tell(worker_died(SOURCE_LINE.sub("", str(error)).partition(". ")[0])) from error
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()

    def shared(self, make: Callable[[], T]) -> T:
        """What `make` gives in rank 0, in every process; inside `joined`."""
        if self.world == 1:
            return make()
        import torch.distributed as dist

        made = [make() if self.leads else None]
        dist.broadcast_object_list(made, src=0)
        return made[0]  # type: ignore[return-value]

    def average(self, values: Tensor) -> Tensor:
        """Mean over the processes, the same bits in each; in place; inside `joined`."""
        if self.world > 1:
            import torch.distributed as dist

            dist.all_reduce(values)
            values /= self.world
        return values

    def require_same(self, where: str, tensors: Sequence[Tensor]) -> None:
        """See that float32 tensors have the same bits in every process; inside `joined`.

        Raises:
            StageFailed: They have not: a step was taken that was not averaged.
        """
        if self.world == 1:
            return
        import torch
        import torch.distributed as dist

        total = torch.stack([tensor.detach().view(torch.int32).sum() for tensor in tensors]).sum()
        both = torch.stack([total, -total])  # the largest, and the smallest with its sign turned
        dist.all_reduce(both, op=dist.ReduceOp.MAX)
        if int(both.sum()):
            raise StageFailed(
                where,
                "the processes hold different weights",
                "gradients that are averaged before every step",
                "one process, or a method whose after_backward averages what it computes itself",
            )


ALONE = Group()


def worker_died(found: str) -> StageFailed:
    """The error of a process whose fellow is gone."""
    return StageFailed(
        "torchrun",
        f"worker died: {found}",
        "every process at work to the end",
        "run the same command again: it resumes",
    )
