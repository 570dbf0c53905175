"""Facts for a terminal, for a pipe and for another program."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from edgekd.report import accounts, placed, words
from edgekd.report.schema import Facts, StageRow

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

COLUMNS = ("step", "top-1 % [95 % interval]", "n", "drop pp [95 % interval]", "size", "p50 ms", "p90 ms", "verdict")
NUMERIC = {"n", "size", "p50 ms", "p90 ms"}
VERDICT_WIDTH = 22  # characters before a verdict goes on to the next line


def as_json(facts: Facts) -> dict[str, Any]:
    """The facts as plain JSON data, `schema_version` first; `Facts.model_validate` gives them back."""
    return facts.model_dump(mode="json")


def renderable(facts: Facts) -> RenderableType:
    """The facts for a terminal: a rich table, then what must be said about it. Names are shown as text, never as markup."""
    from rich.console import Group
    from rich.text import Text

    styles = {"void": "red", "not run": "dim", "skipped": "dim"}
    rows = [(map(_two_lines, cells(row)), styles.get(row.state, "")) for row in facts.stages]
    table = _table(facts.name, COLUMNS, NUMERIC, rows)
    table.columns[COLUMNS.index("verdict")].max_width = VERDICT_WIDTH
    return Group(table, *(Text(line) for line in notes(facts)), *_accounts(facts), *_placed(facts))


def plain(facts: Facts) -> str:
    """The same without colour, boxes or a width: columns of text, for a pipe or a log."""
    lines = [facts.name, *_columns([COLUMNS, *(cells(row) for row in facts.stages)], NUMERIC), *notes(facts)]
    if facts.ledger:
        rows = [accounts.cells(row.model_dump()) for row in facts.ledger]
        lines += [accounts.TITLE, *_columns([accounts.COLUMNS, *rows], accounts.NUMERIC), accounts.LEGEND]
    if facts.placed:
        rows = [placed.cells(row) for row in facts.placed]
        lines += [placed.TITLE, *_columns([placed.COLUMNS, *rows], placed.NUMERIC), *placed.notes(facts.placed)]
    return "\n".join(lines)


def _columns(rows: Sequence[Sequence[str]], numeric: Collection[str]) -> list[str]:
    """Rows as lines, the first of them the names of the columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = [column in numeric for column in rows[0]]
    lines = []
    for row in rows:
        padded = [
            cell.rjust(width) if end else cell.ljust(width) for cell, width, end in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return lines


def _table(
    title: str, columns: Sequence[str], numeric: Collection[str], rows: Iterable[tuple[Iterable[str], str]]
) -> Table:
    """A table for a terminal; `rows`: cells and style of each."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=Text(title), title_justify="left", pad_edge=False)
    for column in columns:
        justify: Literal["right", "left"] = "right" if column in numeric else "left"
        table.add_column(Text(_two_lines(column)), justify=justify, overflow="fold")
    for texts, style in rows:
        table.add_row(*map(Text, texts), style=style)
    return table


def _placed(facts: Facts) -> list[RenderableType]:
    """Where NPU compilers placed the operators, for a terminal."""
    from rich.text import Text

    if not facts.placed:
        return []
    rows = [(placed.cells(row), "red" if row.cpu_operators else "") for row in facts.placed]
    table = _table(placed.TITLE, placed.COLUMNS, placed.NUMERIC, rows)
    return [table, *(Text(line) for line in placed.notes(facts.placed))]


def _accounts(facts: Facts) -> list[RenderableType]:
    """The accuracy ledger for a terminal."""
    from rich.text import Text

    if not facts.ledger:
        return []
    rows = [
        (map(_two_lines, accounts.cells(row.model_dump())), "red" if row.gate and not row.gate.passed else "")
        for row in facts.ledger
    ]
    return [_table(accounts.TITLE, accounts.COLUMNS, accounts.NUMERIC, rows), Text(accounts.LEGEND)]


def cells(row: StageRow) -> tuple[str, ...]:
    """One step as texts in the order of COLUMNS."""
    return (
        row.step,
        words.percent(row.top1_percent),
        words.count(row.top1_percent.n if row.top1_percent is not None else None),
        words.points(row.drop),
        words.size(row.file_bytes),
        words.milliseconds(row.latency_p50_ms),
        words.milliseconds(row.latency_p90_ms),
        f"{row.verdict}: {row.command}" if row.command else row.verdict,
    )


def notes(facts: Facts) -> list[str]:
    """What the table must not be read without: drops, device, lowest class, reconstruction."""
    lines = []
    if any(row.drop is not None for row in facts.stages):
        lines.append(
            "drop: top-1 lost against the step that it was made from, same images, paired interval; below 0 = gained"
        )
    for bench in facts.latency:
        figures = f"{words.speed(bench)}; " if bench.p50_ms is not None else ""
        lines.append(f"{bench.step}: {figures}{words.state(bench)}")
        if bench.power is not None:
            lines.append(f"{bench.step}: {words.energy(bench)}")
    lines += filter(None, [words.one_start(facts)])
    lines += words.no_gain(facts)
    lowest = min(
        (row for row in (facts.shipped.recall if facts.shipped else ()) if row.percent is not None),
        key=lambda row: row.percent or 0.0,
        default=None,
    )
    if lowest is not None and facts.shipped is not None:
        lines.append(
            f"lowest recall of {facts.shipped.step}: {lowest.name} {lowest.percent:.1f} % "
            f"[{lowest.low:.1f}, {lowest.high:.1f}], n={lowest.n:,}"
        )
    if facts.reconstruction:
        lines.append(facts.reconstruction)
    return lines


def _two_lines(cell: str) -> str:
    """The interval below the value: a terminal is narrow."""
    return cell.replace(" [", "\n[")
