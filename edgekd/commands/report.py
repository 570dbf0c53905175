"""`edgekd report`: artifacts of the current run -> one HTML file and JSON."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from edgekd import recipe as recipes
from edgekd.analysis.ledger import ledger
from edgekd.artifact import canonical
from edgekd.commands import current, output
from edgekd.durable import inside, write_whole
from edgekd.report import html, text
from edgekd.report.facts import gather
from edgekd.report.schema import Facts


@dataclass(frozen=True)
class Page:
    """A written report."""

    html: Path
    json: Path
    facts: Facts

    def print_table(self) -> None:
        """The table of every stage on stdout: a drawn one on a terminal, plain columns elsewhere."""
        from rich.console import Console

        console = Console()
        if console.is_terminal:
            console.print(text.renderable(self.facts))
        else:
            output.say(text.plain(self.facts))


def report(workspace: Path, folder: Path | None, json: bool) -> None:
    """Write the report of the current run and print its table."""
    page = write_report(workspace, folder)
    if json:
        output.print_json({"report": str(page.html), **text.as_json(page.facts)})
        return
    page.print_table()
    output.say(f"report: {page.html}")
    output.next_command(f"python -m webbrowser {shlex.quote(str(page.html))}")


def write_report(workspace: Path, folder: Path | None) -> Page:
    """Write `<workspace>/reports/<recipe>/` or a folder of the user's."""
    run = current.require(workspace, "a finished run to report on")
    artifacts = current.artifacts(workspace, run)
    gate = recipes.from_dict(run.recipe, f"recipe {run.name}").gate
    facts = gather(artifacts, run.recipe, ledger(artifacts, gate))
    place = folder or inside(workspace, workspace / "reports" / run.name)
    page = Page(place / "report.html", place / "report.json", facts)
    if not html.is_current(page.html, facts):  # drawing takes seconds; the same facts give the same page
        write_whole(page.html, html.render(facts).encode())
    write_whole(page.json, canonical(text.as_json(facts)))
    return page
