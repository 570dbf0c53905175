"""Contenders that measure in turn, in one run: each round every one of them times a block of queries, in an order drawn anew.

A run is several sittings, and every sitting starts every contender anew: where a process happens to lie in memory makes it some
per cent faster or slower for as long as it lives, and no number of rounds shows that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgekd.analysis.turns import LEAST_ROUNDS, WHOLE
from edgekd.stages.contenders import Block, Contender

NS = 1_000_000_000
BLOCK_SECONDS = 0.25  # of one contender: long against a switch of processes, short against what disturbs a machine
PILOT = 8  # queries from whose median the block's length is chosen
LEAST_QUERIES = 64  # of a run: what p90 needs
# Student's factor is 2.6 then, and 2.4 for 8; measured: two processes of one file differ by 1.6 % (one sigma).
SITTINGS = 6


@dataclass(frozen=True)
class Rounds:
    """What was measured.

    Attributes:
        blocks: {contender: one block a round}; a block is {part: int64 nanoseconds of each query}.
        orders: The contenders of each round in the order of their turns.
        queries: {contender: queries a block}.
        sittings: The number of the sitting that each round belongs to.
    """

    blocks: dict[str, list[Block]] = field(default_factory=dict)
    orders: list[list[str]] = field(default_factory=list)
    queries: dict[str, int] = field(default_factory=dict)
    sittings: list[int] = field(default_factory=list)


@contextmanager
def all_ready(contenders: Sequence[Contender]) -> Iterator[None]:
    """Make them ready one after the other (loading uses all cores); whatever happens, none outlives the block."""
    with ExitStack() as stack:
        for contender in contenders:
            stack.callback(contender.stop)
            contender.ready()
        yield


def take_turns(
    contenders: Sequence[Contender],
    seconds: float,
    seed: int = 0,
    log: Callable[[str], object] = lambda _: None,
    block_seconds: float = BLOCK_SECONDS,
    before: Rounds | None = None,
    share: int = 1,
) -> Rounds:
    """Let contenders that are ready measure in turn, for one sitting.

    Args:
        contenders: Two or more, ready.
        seconds: Of measuring, each, in all sittings.
        seed: Of the order of turns.
        log: Told how far it is.
        block_seconds: Of one turn, about.
        before: The sittings before this one, which is added to them.
        share: Sittings that the run has.
    """
    found = before or Rounds({contender.name: [] for contender in contenders})
    for contender in contenders:
        pilot = float(np.median(contender.step(PILOT)[WHOLE]))
        found.queries.setdefault(contender.name, max(1, round(block_seconds * NS / max(pilot, 1.0))))
    whole = max(LEAST_ROUNDS, round(seconds / block_seconds), -(-LEAST_QUERIES // min(found.queries.values())))
    n, done, sitting = -(-whole // share), len(found.orders), len(set(found.sittings))
    marks = (n // 4, n // 2, 3 * n // 4) if share == 1 else (n,)
    dealt = random.Random(seed + done)
    for turn in range(n):
        order = list(contenders)
        dealt.shuffle(order)
        found.orders.append([contender.name for contender in order])
        found.sittings.append(sitting)
        for contender in order:
            found.blocks[contender.name].append(contender.step(found.queries[contender.name]))
        if turn + 1 in marks:
            medians = ", ".join(_median(name, found.blocks[name]) for name in found.blocks)
            log(f"round {done + turn + 1} of {n * share}: {medians}")
    return found


def _median(name: str, blocks: Sequence[Mapping[str, npt.NDArray[np.int64]]]) -> str:
    return f"{name} {np.median(blocks[-1][WHOLE]) / 1e6:.3f} ms"
