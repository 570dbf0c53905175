"""Several processes of one command, started by `torchrun --nproc-per-node N -m edgekd ...`.

Rank 0 carries the command out; the others join its fits and write nothing. What ends one ends all, with one exit code
and one message. torchrun itself exits 1 whenever a process fails, and shows the exit code of the first one.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from edgekd.console import Console
from edgekd.errors import EdgekdError, StageFailed, UsageError
from edgekd.fit.board import Board
from edgekd.fit.distributed import ALONE, Group, worker_died

NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
COMMAND = "torchrun --nproc-per-node {} -m edgekd"
GRACE = 10.0  # seconds to unwind after a signal, where a lost collective may hold the process; torchrun kills after 30


@contextmanager
def group_of(environment: Mapping[str, str]) -> Iterator[Group]:
    """The processes that torchrun started this one with; one process alone without torchrun.

    Raises:
        UsageError: The environment names several processes and not where they meet.
        EdgekdError: As the block raises, or another process of the group.
        SystemExit: The same in a process beside rank 0.
    """
    if int(environment.get("WORLD_SIZE", "1")) == 1 or "RANK" not in environment:
        yield ALONE
        return
    board, group = _connected(environment)
    if not group.leads:  # what torch has to say besides errors, rank 0 says
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
    try:
        with _ended_by_signals():
            yield group
            if group.leads:
                board.dismiss()
    except (EdgekdError, KeyboardInterrupt) as error:
        _end(group, board, error)
    except OSError as error:  # of the machine: `cli.main` says it
        board.tell(StageFailed(str(error.filename or "workspace"), str(error)))
        board.is_first()
        raise


def _connected(environment: Mapping[str, str]) -> tuple[Board, Group]:
    missing = [name for name in NEEDED if name not in environment]
    if missing:
        raise UsageError(
            "environment", f"WORLD_SIZE without {missing[0]}", "all that torchrun sets", COMMAND.format("N")
        )
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    rank, world, local_rank, local_world = (int(environment[name]) for name in NEEDED[:4])
    store, _, _ = next(rendezvous("env://"))
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun keeps the notes of an attempt that failed
    board = Board(PrefixStore(f"edgekd/{attempt}", store), world)
    return board, Group(rank, world, local_rank, local_world, board)


def _end(group: Group, board: Board, error: EdgekdError | KeyboardInterrupt) -> None:
    """Tell the others and raise what was told first; the first to come here says it, rank 0 by its own way out."""
    cause = board.tell(error)
    first = board.is_first()
    if isinstance(cause, KeyboardInterrupt):
        raise cause if group.leads else SystemExit(130)
    if group.leads:
        cause.told = not first
        raise cause
    if first:
        Console().log(f"error: {cause}")
    raise SystemExit(cause.exit_code)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM, which torchrun sends when a process has died, ends this one in order."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise worker_died("torchrun ended the run, for another process died or it was told to stop")

    hears, says = socket.socketpair()
    says.setblocking(False)
    signal.set_wakeup_fd(says.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_last_resort, args=(hears,), daemon=True).start()
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:  # from here on this process only says why, and goes
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        says.close()


def _last_resort(hears: socket.socket) -> None:
    """End a process that a signal found inside a collective whose other side is gone: Python's handlers wait for its return."""
    heard = hears.recv(1)
    if heard:
        time.sleep(GRACE)
        error = worker_died("this one was told to stop inside a collective")
        Console().log(f"error: {error}")
        os._exit(130 if heard[0] == signal.SIGINT else error.exit_code)
