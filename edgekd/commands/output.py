"""stdout: tables for people, versioned JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any, NoReturn

import typer

from edgekd.console import harmless
from edgekd.errors import EdgekdError

SCHEMA_VERSION = 1
SCREEN, LINE = 24, 1000  # lines of an error, and characters of one


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON document on stdout, with its schema version."""
    text = json.dumps({"schema_version": SCHEMA_VERSION, **value}, indent=1, ensure_ascii=False, default=str)
    typer.echo(text.encode("utf-8", "backslashreplace").decode())


def error_fields(error: EdgekdError) -> dict[str, Any]:
    """An error as the `error` field of a JSON document."""
    names = ("reason", "exit_code", "where", "found", "expected", "hint")
    return {name: getattr(error, name) for name in names}


def fail(error: EdgekdError, facts: Mapping[str, Any]) -> NoReturn:
    """End a `--json` command whose result is there and is not good enough: one document holds both.

    Raises:
        typer.Exit: With the error's exit code, always.
    """
    say_error(error)
    print_json({**facts, "error": error_fields(error)})
    raise typer.Exit(error.exit_code)


def say_error(error: EdgekdError) -> None:
    """An error on stderr: one screen, whatever it quotes."""
    lines = harmless(f"error: {error}").splitlines()
    more = [f"  and {len(lines) - SCREEN} more lines"] if len(lines) > SCREEN else []
    for line in [*lines[:SCREEN], *more]:
        typer.echo(line if len(line) <= LINE else line[:LINE] + "...", err=True)


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[str] = (), whole: Sequence[str] = ()
) -> None:
    """A plain table; columns named in `right` are aligned to the right, cells of those in `whole` stay on one line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=name in whole)
    for row in rows:
        table.add_row(*(Text(harmless(str(cell))) for cell in row))
    console = Console()
    if console.is_terminal:
        console.print(table)
        return
    plain = StringIO()  # not written by rich: it ends the process with exit 1 when the reader of a pipe went away
    Console(width=200, file=plain).print(table)
    typer.echo(plain.getvalue(), nl=False)


def say(line: str) -> None:
    """One line on stdout."""
    typer.echo(harmless(line))


def next_command(line: str) -> None:
    """The command to type next."""
    typer.echo(harmless(f"next: {line}"))


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
