"""The terminal's view: the same figures as the JSON, as text whatever a name holds."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from edgekd.report import facts, html, text, words
from edgekd.report.schema import Drop, Latency, Number


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


def test_an_interval_of_one_start_is_said_to_be_that(make, recipe):
    found = facts.gather(make().chain(), recipe)
    bench = found.latency[0]
    assert bench.p50_ms is not None
    spanned = bench.p50_ms.model_copy(update={"low": bench.p50_ms.value * 0.99, "high": bench.p50_ms.value * 1.01})
    for p50, said in ((spanned, True), (spanned.model_copy(update={"low": None, "high": None}), False), (None, False)):
        one = found.model_copy(update={"latency": (bench.model_copy(update={"p50_ms": p50}),)})
        assert (words.ONE_START in text.plain(one)) is said, p50
        assert ("of one start" in " ".join(shown(text.renderable(one)).split())) is said
        assert (words.ONE_START in html.render(one)) is said


def test_missing_step_says_its_command(make):
    assert "not run: edgekd train" in text.plain(facts.gather({}))
    assert words.next_command(facts.gather({})) == "edgekd train"


def test_what_a_profile_must_be_called_stands_beside_its_figures():
    facts_of_it = {"step": "bench/onnx@cpu", "artifact": "a", "target": "onnx", "device": "cpu", "verdict": "valid"}
    one = Latency(
        **facts_of_it, state="ok", p50_ms=Number(value=1.0, n=64), machine=(("label", "MLPerf-style, unverified"),)
    )
    assert words.speed(one) == "p50 1.00 ms on cpu (n=64 runs), MLPerf-style, unverified"


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


@pytest.mark.parametrize(
    ("int8", "fp32", "said"),
    [((0.9, 1.1), (1.9, 2.1), False), ((1.9, 2.1), (0.9, 1.1), True), ((0.9, 1.1), (1.05, 1.2), True)],
)
def test_an_int8_file_that_is_not_shown_to_be_faster_says_what_to_choose(make, recipe, int8, fp32, said):
    found = facts.gather(make().chain(), recipe)
    spans = {"onnx": fp32, "onnx-int8": int8}
    timed = tuple(
        found.latency[0].model_copy(
            update={
                "step": f"bench/{name}@cpu",
                "target": name,
                "device": "cpu",
                "p50_ms": Number(value=sum(span) / 2, low=span[0], high=span[1], n=100),
            }
        )
        for name, span in spans.items()
    )
    one = found.model_copy(update={"latency": timed})
    words_said = (
        "bench/onnx-int8@cpu is not shown to be faster than bench/onnx@cpu: ship onnx, or onnx-int8 for its size"
    )
    assert (words_said in text.plain(one)) is (words_said in html.render(one)) is said
    elsewhere = (timed[0].model_copy(update={"device": "board"}), timed[1])
    assert words_said not in text.plain(found.model_copy(update={"latency": elsewhere}))
