"""The accuracy ledger on the page, in the terminal and in JSON."""

from html.parser import HTMLParser

import pytest
from rich.console import Console

from edgekd.report import accounts, html, text
from edgekd.report.schema import Facts


def compared(to, drop, bound):
    counts = {"n": 2000, "lost": 30, "gained": 24, "changed": 61}
    return {
        **counts,
        "to": to,
        "drop_pp": drop,
        "low_pp": -0.4,
        "bound_pp": bound,
        "agreement_percent": 96.95,
        "verdict": "",
    }


def row(step, gate=None, verdict="within noise"):
    top1 = {"value": 91.5, "low": 90.2, "high": 92.6, "n": 2000}
    loss = compared("student", 0.3, 0.934) if gate is not None else None
    judged = None
    if gate is not None:
        passed = gate > 0.934
        judged = {
            "passed": passed,
            "budget_pp": gate,
            "key": "gate.max_drop_pp",
            "to": "student",
            "text": "<b>said</b>",
        }
    return {
        "step": step,
        "artifact": f"{step}/1-2",
        "top1_percent": top1,
        "previous": loss,
        "origin": loss,
        "gate": judged,
        "verdict": verdict,
    }


ROWS = [row("student"), row("graph", 1.0), row("quantized/u8s8", 0.5, "<script>")]


@pytest.fixture(scope="module")
def facts(found) -> Facts:
    return Facts.model_validate({**found.model_dump(), "ledger": ROWS})


class Nested(HTMLParser):
    """Tags that are open, and the text of the ledger's section."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "section":
            self.sections.append(dict(attrs)["id"] or "")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.sections[-1:] == ["ledger"]:
            self.text.append(data)


def test_the_page_shows_rows_gate_and_picture_as_text(facts):
    page = html.render(facts)
    found = Nested(page)
    assert not found.open and found.sections.index("ledger") == found.sections.index("stages") + 1
    shown = " ".join(found.text)
    for part in ("0.934", "passed (1 pp)", "FAILED (0.5 pp)", "<b>said</b>", "<script>", *accounts.COLUMNS):
        assert part in shown, part
    assert 'href="#ledger"' in page
    picture = html.pictures(facts)["ledger"]
    assert "graph 0.30, at most 0.934, gate 1 passed; quantized/u8s8 0.30, at most 0.934, gate 0.5 FAILED" in picture


def test_the_terminal_and_a_pipe_show_the_same(facts):
    printed = Console(width=240)
    with printed.capture() as captured:
        printed.print(text.renderable(facts))
    for shown in (captured.get(), text.plain(facts)):
        assert accounts.TITLE in shown and "FAILED (0.5 pp)" in shown and "0.934" in shown


def test_without_a_ledger_there_is_no_trace_of_one(found):
    assert "ledger" not in html.pictures(found) and 'id="ledger"' not in html.render(found)
    assert accounts.TITLE not in text.plain(found)


def test_json_gives_the_rows_back(facts):
    assert Facts.model_validate(text.as_json(facts)).ledger == facts.ledger
