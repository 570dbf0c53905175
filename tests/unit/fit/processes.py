"""What two processes train in tests, and how they are started there."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.distributed import TCPStore

from edgekd import models, registry
from edgekd.commands.processes import group_of
from edgekd.console import Console
from edgekd.distillers.base import Distiller, cross_entropy
from edgekd.errors import EdgekdError, RecipeError
from edgekd.fit.batches import TrainingData
from edgekd.fit.distributed import ALONE, Group
from edgekd.fit.loop import fit
from edgekd.fit.request import FitResult, Settings, Side
from edgekd.recipe import Fit

CLASSES, IMAGES, BATCH, EPOCHS = 4, 71, 16, 4  # 4 batches of 16 and one of 7, four times: 20 steps
NORMAL = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
SEED = 3
MADE: dict[str, tuple[str, dict[str, Any]]] = {
    "ce": ("ce", {}),
    "kd": ("kd", {}),
    "rtk": ("rtk", {"beta": 1.0}),  # of 5 a choice among the k best turns on a rounding
    "rtk-unused": ("rtk", {"beta": 5.0, "attn_grad": False, "select": "all"}),  # parameters without a gradient
}


FORKS = multiprocessing.get_context("forkserver")
# The last one is what DistributedDataParallel imports, for seconds, when it is made.
FORKS.set_forkserver_preload(
    ["edgekd.cli", "edgekd.commands.chain", "edgekd.stages.distill", __name__, "torch._dynamo"]
)
ENDS = 120  # seconds that a busy machine may take to train a tiny network


class Odd(Distiller):
    """Goes wrong in rank 1 alone."""

    needs_teacher = False

    def __init__(self, rank: int, wrong: str) -> None:
        super().__init__()
        self.rank, self.wrong = rank, wrong

    def forward(self, student: Any, teacher: Any, target: Any, progress: Any) -> dict[str, torch.Tensor]:
        ce = cross_entropy(student.logits, target)
        if self.rank == 1 and progress.step == 3:
            if self.wrong == "raises":
                raise RecipeError("distill.odd", "wrong in rank 1")
            if self.wrong == "nan":
                ce = ce * float("nan")
            if self.wrong == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
        return {"ce": ce}

    def after_backward(self, progress: Any) -> None:
        if self.rank == 1 and self.wrong == "drifts":
            self.student.classifier.bias.grad += 0.1

    def setup(self, context: Any) -> None:
        self.__dict__["student"] = context.student  # no module of its own


def data() -> TrainingData:
    """Images of 16 x 16 in four classes that differ in brightness.

    No crop: a black border makes many pixels one value, and a ReLU that turns for all of them at once turns on a rounding.
    """
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(IMAGES) % CLASSES
    images = torch.randint(0, 64, (IMAGES, 16, 16, 3), generator=generator) + 64 * labels.view(-1, 1, 1, 1)
    return TrainingData(images.to(torch.uint8), labels, ("flip",))


def network(seed: int) -> torch.nn.Module:
    return models.build("resnet8", classes=CLASSES, generator=torch.Generator().manual_seed(seed))


def method(case: str, group: Group = ALONE) -> Distiller:
    if case not in MADE:
        return Odd(group.rank, case)
    made: Distiller = registry.construct("distillers", *MADE[case])
    return made


def section(**more: Any) -> Fit:
    return Fit(**({"epochs": EPOCHS, "batch_size": BATCH, "lr": 0.005, "milestones": [3], "compile": False} | more))


def train(case: str, folder: Path, group: Group, **more: Any) -> FitResult:
    student, teacher, distiller = network(1), network(2), method(case, group)
    points = models.taps("resnet8", student)
    wanted, seen = distiller.wanted(list(points), list(points))
    shown = Side(teacher, points, seen, *NORMAL) if distiller.needs_teacher else None
    how = Settings("student", section(**more), SEED, CLASSES, "cpu", "fp32", False, 1, folder / case / "resume", group)
    return fit(Side(student, points, wanted, *NORMAL), shown, distiller, data(), how, Console(quiet=True))


def main() -> None:
    """`FOLDER CASE...`: train each case and leave the student's weights in the folder, as rank 0 does."""
    with group_of(os.environ) as group:
        folder = Path(sys.argv[1])
        for case in sys.argv[2:]:
            state = train(case, folder, group).network.state_dict()
            if group.leads:
                save_file({name: value.contiguous() for name, value in state.items()}, folder / f"{case}.safetensors")


@dataclass
class Started:
    """Processes at work.

    Attributes:
        folder: Where they are at work, and what they write on stdout and stderr is kept.
        workers: By rank.
        store: In the place of torchrun's.
    """

    folder: Path
    workers: list[Any]
    store: TCPStore

    def ended(self) -> list[int | None]:
        """Wait for all; their exit codes by rank, -n of one that signal n ended."""
        for worker in self.workers:
            worker.join(ENDS)
        codes = [worker.exitcode for worker in self.workers]
        for worker in self.workers:
            worker.kill()
        return codes

    def said(self, kind: str) -> str:
        """What all of them wrote on `out` or `err`."""
        return "".join((self.folder / f"{kind}{rank}").read_text() for rank in range(len(self.workers)))


def start(folder: Path, entry: Callable[[], None], *argv: str, n: int = 2) -> Started:
    """Start processes as torchrun would, at a fraction of its cost: forked from a server that has torch at hand."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    workers = [FORKS.Process(target=_work, args=(rank, n, store.port, folder, entry, argv)) for rank in range(n)]
    for worker in workers:
        worker.start()
    return Started(folder, workers, store)


def _work(rank: int, n: int, port: int, folder: Path, entry: Callable[[], None], argv: tuple[str, ...]) -> None:
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n, "MASTER_PORT": port}
    there = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    os.environ.update({name: str(value) for name, value in (here | there).items()})
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{name}{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits SIG_IGN
    sys.argv = ["edgekd", *argv]
    try:
        entry()
    except EdgekdError as error:  # as `cli.main` does
        Console(quiet=error.told).log(f"error: {error}")
        sys.exit(error.exit_code)
