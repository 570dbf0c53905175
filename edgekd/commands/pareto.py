"""`edgekd pareto`: accuracy, latency and energy of everything that was measured in a workspace; nothing is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd.analysis import pareto as ranking
from edgekd.artifact import Artifact, canonical
from edgekd.commands import current, output
from edgekd.durable import inside, write_whole
from edgekd.errors import UsageError
from edgekd.store import Store, age

FOLDER, FILE = "pareto", "pareto.json"


def pareto(workspace: Path, folder: Path | None, json: bool) -> None:
    """Print one table for each device, chip and number of threads, and write them with their pictures.

    Raises:
        UsageError: Nothing was measured, or nothing that may be compared.
    """
    found = [ranking.point(bench) for bench in _newest(Store(workspace))]
    points = [one for one in found if isinstance(one, ranking.Point)]
    left = [one for one in found if isinstance(one, ranking.Left)]
    told = ", ".join(f"{n} {why}" for why, n in ranking.reasons(left).items())
    if not points:
        hint = "edgekd bench" + current.option(workspace)
        raise UsageError(
            f"workspace {workspace}", f"nothing to compare ({told or 'nothing measured'})", "a bench", hint
        )
    place = folder or inside(workspace, workspace / "reports" / FOLDER)
    facts: dict[str, Any] = {"groups": ranking.groups(points), "left_out": [vars(one) for one in left]}
    from edgekd.report import pareto_plot  # matplotlib

    for i, group in enumerate(facts["groups"]):
        group["picture"] = f"pareto-{i}.svg"
        write_whole(place / group["picture"], pareto_plot.svg(group))
    write_whole(place / FILE, canonical({"schema_version": output.SCHEMA_VERSION, **facts}))
    following = "edgekd report" + current.option(workspace)
    if json:
        output.print_json({**facts, "written": str(place), "next": following})
        return
    for group in facts["groups"]:
        _print(group)
    output.say(f"left out: {told or 'nothing'}")
    output.say(f"written: {place}/{FILE} and {len(facts['groups'])} picture(s)")
    output.next_command(following)


def _newest(store: Store) -> list[Artifact]:
    """Every measurement; of one that was repeated, the last."""
    found: dict[tuple[str, str], Artifact] = {}
    for artifact in sorted((a for a in store.all() if a.step.startswith("bench/")), key=age):
        found[artifact.step, artifact.key] = artifact
    return list(found.values())


def _print(group: dict[str, Any]) -> None:
    output.say(f"{group['device']} ({group['chip']}), {group['threads']} thread(s), {group['kind']}")
    output.print_table(ranking.COLUMNS, [ranking.cells(row) for row in group["points"]])
    without = group["without_energy"]
    if without:
        output.say(f"energy: {without} of {len(group['points'])} have no figure")
