"""Facts -> one HTML file that needs nothing else: no script runs, no address is fetched, every name is escaped."""

from __future__ import annotations

import hashlib
from importlib import metadata, resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from edgekd.report import accounts, placed, words
from edgekd.report.folder import flat
from edgekd.report.schema import Facts
from edgekd.report.text import as_json

TEMPLATE = "template.html.j2"
HEAD = 1000  # characters of a page in which its stamp stands
TABLE_CLASSES = 20  # classes up to which the confusion matrix is also a table; above, the worst confusions and the JSON


def render(facts: Facts) -> str:
    """The whole page; the same facts give the same text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"words": words, "accounts": accounts, "placed": placed, "table_classes": TABLE_CLASSES}
    template = resources.files("edgekd.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(template).render(
        facts=facts,
        stamp=stamp(facts),
        data=as_json(facts),
        pictures={name: Markup(svg) for name, svg in pictures(facts).items()},
        recipe=list(flat(facts.recipe)) if facts.recipe else [],
    )


def is_current(path: Path, facts: Facts) -> bool:
    """Whether a page was written from these very facts by this very code: then it need not be drawn again."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return stamp(facts) in file.read(HEAD)


def stamp(facts: Facts) -> str:
    """SHA-256 over the facts, the files of this package and the version of the drawing library, hex."""
    digest = hashlib.sha256(facts.model_dump_json().encode())
    for file in sorted(resources.files("edgekd.report").iterdir(), key=lambda file: file.name):
        if file.is_file():
            digest.update(file.read_bytes())
    digest.update(metadata.version("matplotlib").encode())
    return digest.hexdigest()


def pictures(facts: Facts) -> dict[str, str]:
    """{name: inline SVG} of everything that there is something to draw of; a void measurement is never drawn."""
    from edgekd.report import plots  # matplotlib takes half a second

    drawn: dict[str, str] = {}
    if any(row.state == "ok" and row.top1_percent is not None for row in facts.stages):
        drawn["accuracy"] = plots.accuracy(facts.stages, "accuracy")
    if any(row.origin is not None for row in facts.ledger):
        drawn["ledger"] = plots.losses(facts.ledger, "ledger")
    for i, curve in enumerate(facts.curves):
        drawn[f"curve-{i}"] = plots.curves(curve, f"curve-{i}")
    if facts.shipped is not None:
        drawn["recall"] = plots.recall(facts.shipped, "recall")
        if facts.shipped.matrix is not None:
            drawn["confusion"] = plots.confusion(facts.shipped, "confusion")
    if any(bench.state == "ok" and bench.histograms for bench in facts.latency):
        drawn["latency"] = plots.latency(facts.latency, "latency")
    if facts.attention is not None:
        drawn["attention"] = plots.attention(facts.attention, "attention")
    return drawn
