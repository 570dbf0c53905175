"""The page: whole, self-contained, accessible, and safe whatever a class is called."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgekd.report import facts, html, plots
from edgekd.report.schema import Facts
from edgekd.report.text import as_json

HOSTILE = (
    "</script><b>bold</b>",
    '"><img src=x onerror=alert(1)>',
    "<svg onload='x'>",
    "$\\frac{1}{$",
    "--><!--",
    "]]>&amp;",
    "[red]rich[/red]",
    "\x1b[31mred\x00",
    "{{ 7 * 7 }}",
    "日本語 \u202eabc",
)
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects tags, attributes and the JSON block; checks that tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.json = ""
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.json += data
        else:
            self.text.append(data)


@pytest.fixture(scope="module")
def text(found) -> str:
    return html.render(found)


@pytest.fixture(scope="module")
def pictures(found) -> dict[str, str]:
    return html.pictures(found)


def test_page_parses_and_holds_every_section(text):
    page = Page(text)
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)), "an id stands twice"
    assert {"stages", "training", "classes", "latency", "attention", "data", "machine", "lineage", "facts"} <= set(ids)
    words = "".join(page.text)
    for needed in (
        "no difference shown (n=2,000)",
        "seen in training",
        "RTK here is an edgekd reconstruction",
        "Made-up CPU",
    ):
        assert needed in words


def test_page_needs_nothing_from_outside(text):
    assert "http://" not in text and "https://" not in text and "@import" not in text
    for tag, attributes in Page(text).tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
        assert "src" not in attributes
        assert not [key for key in attributes if key.startswith("on")]
        for key in ("href", "xlink:href"):
            assert attributes.get(key, "#").startswith("#")
        if tag == "script":
            assert attributes["type"] == "application/json"


def test_references_inside_the_page_lead_somewhere(text):
    page = Page(text)
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    targets = set(re.findall(r"url\(#([^)]+)\)", text))
    for _, attributes in page.tags:
        targets |= {attributes[key][1:] for key in ("href", "xlink:href") if key in attributes}
        targets |= set(attributes.get("aria-labelledby", "").split())
    assert targets and targets <= ids


def test_json_block_equals_the_facts(found, text):
    block = Page(text).json
    assert json.loads(block) == as_json(found)
    assert Facts.model_validate_json(block) == found


def test_every_picture_has_title_description_and_a_table_beside_it(text):
    page = Page(text)
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(pictures) == 6
    assert all(attributes["role"] == "img" and attributes["aria-labelledby"] for attributes in pictures)
    tables = [tag for tag, _ in page.tags if tag == "table"]
    assert len(tables) >= len(pictures)
    assert len([tag for tag, _ in page.tags if tag == "caption"]) == len(tables)


def test_hostile_names_stay_text_everywhere(make, recipe):
    maker = make(classes=HOSTILE)
    found = facts.gather(maker.chain(), {**recipe, "name": HOSTILE[0], "note": HOSTILE[1]})
    text = html.render(found)
    page = Page(text)
    assert page.open == []
    assert {"b", "img"}.isdisjoint(tag for tag, _ in page.tags)
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert "\x1b" not in text and "\x00" not in text and "\u202e" not in text
    assert text.count("<script") == text.count("</script>") == 1
    assert "{{ 7 * 7 }}" in text and "$\\frac{1}{$" in text
    assert json.loads(page.json)["shipped"]["classes"][0] == HOSTILE[0]
    assert Facts.model_validate_json(page.json) == found
    for svg in html.pictures(found).values():
        assert "</script>" not in svg and "<img" not in svg


def test_pictures_are_well_formed_and_the_same_each_time(found, text, pictures):
    first, second = pictures, html.pictures(found)
    assert set(first) == {"accuracy", "curve-0", "recall", "confusion", "latency", "attention"}
    assert first == second
    assert all(svg in text for svg in first.values())
    for svg in first.values():
        assert svg.startswith("<svg") and "<?xml" not in svg and "<!DOCTYPE" not in svg and "<metadata" not in svg
        root = ElementTree.fromstring(svg.replace("xlink:", ""))
        assert root.get("viewBox") and root[0].tag == "title" and root[1].tag == "desc"
        assert "<text" in svg, "text must stay text"


def test_pictures_follow_the_theme(text, pictures):
    for colour, variable in plots.PALETTE.items():
        assert text.count(f"{variable}:") == 3, f"{variable} has no light, dark and print value"
        assert f"{variable}: {colour}" in text
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert "var(--ink, #1c2430)" in pictures["accuracy"]


def test_class_names_are_text_in_the_picture(pictures):
    assert all(f">{name}</text>" in pictures["confusion"] for name in ("airplane", "truck"))


def test_latency_marks_percentiles_and_keeps_the_tail(found, pictures):
    svg = pictures["latency"]
    largest = max(bench.histograms[0].max_ms for bench in found.latency)
    assert "p50" in svg and "p90" in svg and f"largest {largest:.3g} ms" in svg
    assert "No sample is cut off" in svg


def test_percentile_without_support_is_not_marked(found):
    benches = tuple(bench.model_copy(update={"p90_ms": None}) for bench in found.latency)
    svg = plots.latency(benches, "latency")
    assert "p50" in svg and "p90" not in svg


def test_void_measurement_is_not_plotted(make, recipe):
    maker = make()
    maker.data()
    maker.teacher()
    maker.student()
    maker.graph()
    maker.export("onnx", "graph")
    maker.bench("onnx", "graph", 1.4, verdict="void", reasons=["provider fell back to CPU"])
    found = facts.gather(maker.made, recipe)
    assert "latency" not in html.pictures(found)
    text = html.render(found)
    assert "void: provider fell back to CPU" in text and "no numbers are shown" in text
    assert "bench/onnx@cpu" not in html.pictures(found)["accuracy"]


def test_run_up_to_distill_says_what_is_not_run(make, recipe):
    maker = make()
    maker.data()
    maker.teacher()
    maker.student("kd", epochs=1)
    text = html.render(facts.gather(maker.made, recipe))
    page = Page(text)
    assert page.open == []
    assert "<strong>not run</strong>: <code>edgekd quantize</code>" in text
    assert "<strong>not run</strong>: <code>edgekd bench</code>" in text
    assert "The method of this student records no attention." in text


def test_empty_run_is_a_page(make):
    page = Page(html.render(facts.gather({})))
    assert page.open == []
    assert "edgekd train" in "".join(page.text)


@pytest.mark.parametrize("count", [2, 40, 250])
def test_few_and_many_classes(make, recipe, count):
    maker = make(classes=tuple(f"class {i}" for i in range(count)), n=600)
    maker.data()
    maker.teacher()
    maker.student("kd", epochs=1)
    maker.graph()
    maker.quantized()
    text = html.render(facts.gather(maker.made, recipe))
    page = Page(text)
    assert page.open == []
    assert ("confusion-title" in text) == (count <= 200)


def test_page_knows_whether_it_is_current(found, text, tmp_path: Path):
    path = tmp_path / "report.html"
    assert not html.is_current(path, found)
    path.write_text(text, encoding="utf-8")
    assert html.is_current(path, found)
    assert not html.is_current(path, found.model_copy(update={"name": "other"}))


def test_template_is_package_data():
    assert resources.files("edgekd.report").joinpath(html.TEMPLATE).is_file()
