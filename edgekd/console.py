"""Progress and log on stderr: bars on a terminal, plain lines elsewhere. stdout belongs to results alone."""

from __future__ import annotations

import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

HIDDEN = ("Cc", "Cs")  # controls and half characters: none may reach a terminal
BIDI = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}  # nor what reorders the text around it
PLAIN_SECONDS = 10.0  # a non-terminal log gets a line this often, not one a step


class Task(Protocol):
    """One piece of counted work."""

    def advance(self, n: int = 1, **fields: str | float) -> None:
        """Count n more units done; fields are shown beside the bar (`loss=0.31`)."""


class Console:
    """Where stages report: `log` for a line, `task` for counted work.

    Args:
        quiet: Show nothing (tests, `--json` callers that want silence).
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.tty = sys.stderr.isatty() and not quiet

    def log(self, line: str) -> None:
        """Write one line to stderr."""
        if not self.quiet:
            print(harmless(line), file=sys.stderr, flush=True)

    @contextmanager
    def task(self, label: str, total: int, unit: str = "it") -> Iterator[Task]:
        """Show counted work while the block runs; total in `unit`s."""
        if self.quiet:
            yield _Silent()
        elif self.tty:
            with _bar(label, total, unit) as bar:
                yield bar
        else:
            yield _Plain(self, label, total, unit)


class _Silent:
    def advance(self, n: int = 1, **fields: str | float) -> None:
        pass


class _Plain:
    def __init__(self, console: Console, label: str, total: int, unit: str) -> None:
        self.console, self.label, self.total, self.unit = console, label, total, unit
        self.done = 0
        self.start = self.last = time.monotonic()

    def advance(self, n: int = 1, **fields: str | float) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.last < PLAIN_SECONDS and not (self.done >= self.total > 0 and now - self.start > PLAIN_SECONDS):
            return
        self.last = now
        rate = self.done / max(now - self.start, 1e-9)
        left = (self.total - self.done) / max(rate, 1e-9)
        shown = " ".join(f"{name}={_short(value)}" for name, value in fields.items())
        self.console.log(
            f"{self.label}: {self.done}/{self.total} {self.unit}, {rate:.4g} {self.unit}/s, {left:.0f} s left {shown}".rstrip()
        )


def harmless(text: str) -> str:
    """Text that does nothing to a terminal but stand there."""
    return "".join(
        "\ufffd" if c in BIDI or (unicodedata.category(c) in HIDDEN and c not in "\n\t") else c for c in text
    )


@contextmanager
def _bar(label: str, total: int, unit: str) -> Iterator[Task]:
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[shown]}", markup=False),
    )
    with Progress(*columns, console=RichConsole(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total, rate="", shown="")
        start, done = time.monotonic(), 0

        class Bar:
            def advance(self, n: int = 1, **fields: str | float) -> None:
                nonlocal done
                done += n
                rate = f"{done / max(time.monotonic() - start, 1e-9):.4g} {unit}/s"
                shown = " ".join(f"{name}={_short(value)}" for name, value in fields.items())
                progress.update(task, completed=done, rate=rate, shown=shown)

        yield Bar()


def _short(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
