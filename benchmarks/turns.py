"""Contenders in processes of their own that work in turn: what disturbs the machine for a while disturbs them all.

Each contender makes itself ready (compiles, warms up), then waits; told `go`, it does one round and answers with a figure.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, cast

Round = Callable[[], float]  # waits for nothing; gives one round's figure


def serve(measure: Round) -> None:
    """The contender's side: one figure on stdout for each line on stdin, until that is closed."""
    answer({"ready": True})
    while sys.stdin.readline():
        answer({"figure": measure()})


def answer(values: dict[str, object]) -> None:
    """Send one line to the driver."""
    print(json.dumps(values), flush=True)


@contextmanager
def contenders(commands: dict[str, Sequence[str]], log: IO[bytes]) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Start every contender, one after the other (compiling uses all cores), each until it is ready; all end with the block."""
    with ExitStack() as stack:
        started = {}
        for name, command in commands.items():
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
            stack.callback(_end, child)
            _hear(name, child)
            print(f"{name}: ready", file=sys.stderr, flush=True)
            started[name] = child
        yield started


def rounds(children: dict[str, subprocess.Popen[str]], n: int) -> dict[str, list[float]]:
    """n rounds; in each, every contender once, the first of a round moving on by one."""
    figures: dict[str, list[float]] = {name: [] for name in children}
    names = list(children)
    for turn in range(n):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            child = children[name]
            cast("IO[str]", child.stdin).write("go\n")
            cast("IO[str]", child.stdin).flush()
            figures[name].append(float(_hear(name, child)["figure"]))
        print(f"round {turn + 1} of {n}: " + ", ".join(f"{k} {v[-1]:.0f}" for k, v in figures.items()), file=sys.stderr)
    return figures


def _hear(name: str, child: subprocess.Popen[str]) -> dict[str, float]:
    line = cast("IO[str]", child.stdout).readline()
    if not line:
        raise SystemExit(f"{name} ended with code {child.wait()}; its words are in the log")
    return cast("dict[str, float]", json.loads(line))


def _end(child: subprocess.Popen[str]) -> None:
    cast("IO[str]", child.stdin).close()
    try:
        child.wait(timeout=60)
    except subprocess.TimeoutExpired:
        child.kill()
