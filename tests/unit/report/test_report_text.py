"""The terminal's view: the same figures as the JSON, as text whatever a name holds."""

from __future__ import annotations

import io

from rich.console import Console

from edgekd.report import facts, text, words
from edgekd.report.schema import Drop, Number


def shown(renderable: object, width: int = 200) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=True, color_system="truecolor").print(renderable)
    return stream.getvalue()


def test_plain_has_every_step_and_figure(make, recipe):
    found = facts.gather(make().chain(), recipe)
    lines = text.plain(found).splitlines()
    for row in found.stages:
        (line,) = [line for line in lines if line.startswith(f"{row.step} ")]
        assert row.verdict in line and words.percent(row.top1_percent) in line and words.size(row.file_bytes) in line
    assert lines[-1].startswith("RTK here is an edgekd reconstruction")
    assert "\x1b" not in text.plain(found)


def test_terminal_has_the_same_cells(make, recipe):
    found = facts.gather(make().chain(), recipe)
    drawn = shown(text.renderable(found))
    assert all(row.step in drawn for row in found.stages)
    assert "no difference shown" in drawn and "371.0 kB" in drawn and "bench/onnx-int8@cpu: p50" in drawn


def test_narrow_terminal_loses_nothing_that_decides(make, recipe):
    drawn = shown(text.renderable(facts.gather(make().chain(), recipe)), width=80)
    assert "371.0" in drawn and "…" not in drawn


def test_markup_in_names_is_shown_not_obeyed(make, recipe):
    maker = make(classes=("[bold]a[/bold]", *"bcdefghij"), n=400)
    maker.hard = maker.hard + (maker.label == 0)  # its first class is the lowest
    found = facts.gather(maker.chain(), {**recipe, "name": "[red]run[/red]\x1b[2J"})
    drawn = shown(text.renderable(found))
    assert "[red]run[/red]" in drawn and "\x1b[2J" not in drawn
    assert "[bold]a[/bold]" in drawn and "[bold]a[/bold]" in text.plain(found)


def test_missing_step_says_its_command(make):
    assert "not run: edgekd train" in text.plain(facts.gather({}))
    assert words.next_command(facts.gather({})) == "edgekd train"


def test_words():
    assert words.percent(Number(value=92.114, low=91.562, high=92.62, n=10)) == "92.11 [91.56, 92.62]"
    assert words.percent(None) == words.NONE
    assert [words.milliseconds(Number(value=v)) for v in (0.81234, 8.1234, 81.234, 812.34)] == [
        "0.812",
        "8.12",
        "81.2",
        "812",
    ]
    assert [words.size(n) for n in (12, 371_002, 1_093_217, None)] == ["12 B", "371.0 kB", "1.09 MB", words.NONE]
    drop = Drop(against="graph", points=-0.001, low=-0.31, high=0.3, lost=1, gained=2, n=9)
    assert words.points(drop) == "0.00 [−0.31, 0.30]"
