"""What is said of the same student in several runtimes: a table, and which one to ship on this processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.analysis.turns import WHOLE
from edgekd.artifact import canonical
from edgekd.commands import current, output
from edgekd.durable import write_whole

FILE = "turns.json"
COLUMNS = (
    *("runtime", "target", "precision", "top-1 % [95 %]", "p50 ms [95 %]", "p90 ms [95 %]"),
    *("load ms", "memory MiB", "file KiB", "verdict"),
)


def finish(facts: dict[str, Any], place: Path, json: bool, workspace: Path) -> None:
    """Write the facts into a folder and print them, the fastest first."""
    facts["runs"] = sorted(facts["runs"], key=lambda run: run["latency"].get(WHOLE, {}).get("p50_ms", float("inf")))
    facts["advice"] = advice(facts)
    following = "edgekd ledger" + current.option(workspace)
    write_whole(place / FILE, canonical({"schema_version": output.SCHEMA_VERSION, **facts}))
    if json:
        output.print_json({**facts, "written": str(place / FILE), "next": following})
        return
    right = ("load ms", "memory MiB", "file KiB")
    output.print_table(COLUMNS, [_cells(run, facts) for run in facts["runs"]], right=right)
    threads = f"{facts['threads']} thread" + ("s" if facts["threads"] > 1 else "")
    output.say(f"batch 1, {threads}, preprocessing included, {facts['rounds']} rounds in turn, order drawn anew")
    for reason, names in _reasons(facts["runs"]).items():
        output.say(f"{'all' if len(names) == len(facts['runs']) else ', '.join(names)}: {reason}")
    for one in facts["left_out"]:
        output.say(f"left out: {one['target']}: {one['why']}" + (f"; try: {one['hint']}" if one["hint"] else ""))
    for line in facts["advice"]:
        output.say(line)
    output.say(f"written: {place / FILE}")
    output.next_command(following)


def advice(facts: Mapping[str, Any]) -> list[str]:
    """Which runtime to ship: the fastest, and those that are not shown to be slower; then what the others are good for."""
    runs: Sequence[Mapping[str, Any]] = facts["runs"]
    if not runs or not facts["effects"]:
        return []
    best = runs[0]["name"]
    even = [name for name in (_other(effect, best) for effect in facts["effects"] if not effect["shown"]) if name]
    slower = next((run["name"] for run in runs[1:] if run["name"] not in even), None)
    said = f"which runtime should I ship on this CPU: {_named(best, facts)}, {_figures(runs[0])}"
    if even:
        said += "; not shown to be slower: " + ", ".join(_named(name, facts) for name in even)
    if slower is not None:
        effect = next(e for e in facts["effects"] if {e["first"], e["second"]} == {best, slower})
        ratio = f"{effect['ratio']:.2f} [{effect['low']:.2f}, {effect['high']:.2f}]"
        said += f"; {ratio} times as fast as the next, {_named(slower, facts)}"
    lines = [said]
    top = max(runs, key=lambda run: (run.get("accuracy") or {}).get("top1_percent", 0.0))
    lost = _top1(top) - _top1(runs[0])
    if lost > 0:
        n = (runs[0].get("accuracy") or {}).get("n", 0)
        lines.append(
            f"{_named(best, facts)} is {lost:.2f} pp below the best of the table, {_named(top['name'], facts)} (n={n:,}); "
            "whether that is noise says: edgekd ledger"
        )
    return lines


def _reasons(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """{what speaks against figures: the files whose}."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for reason in run.get("reasons") or ():
            found.setdefault(reason, []).append(run["name"])
    return found


def _other(effect: Mapping[str, Any], name: str) -> str | None:
    """The other one of a pair; None where the pair is not of it."""
    pair = [effect["first"], effect["second"]]
    return next(one for one in pair if one != name) if name in pair else None


def _named(name: str, facts: Mapping[str, Any]) -> str:
    runtime = facts["runtimes"][name]
    return f"{runtime['name']} {runtime['version']} with {name} ({facts['precisions'][name]})"


def _figures(run: Mapping[str, Any]) -> str:
    whole = run["latency"][WHOLE]
    return f"{_top1(run):.2f} % at p50 {_span(whole, 50)} ms"


def _top1(run: Mapping[str, Any]) -> float:
    return float((run.get("accuracy") or {}).get("top1_percent", 0.0))


def _cells(run: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[str, ...]:
    whole, runtime = run["latency"].get(WHOLE, {}), facts["runtimes"][run["name"]]
    seen = run["accuracy"]
    top1 = f"{seen['top1_percent']:.2f} [{seen['top1_low_percent']:.2f}, {seen['top1_high_percent']:.2f}]"
    return (
        f"{runtime['name']} {runtime['version']}",
        run["name"],
        facts["precisions"][run["name"]],
        top1,
        _span(whole, 50),
        _span(whole, 90),
        f"{run['load_ms']:.0f}",
        f"{run['peak_memory_mib']:.0f}",
        f"{facts['files'][run['name']] / 1024:.0f}",
        run["verdict"],
    )


def _span(whole: Mapping[str, Any], p: int) -> str:
    if f"p{p}_ms" not in whole:
        return ""
    return f"{whole[f'p{p}_ms']:.4f} [{whole[f'p{p}_low_ms']:.4f}, {whole[f'p{p}_high_ms']:.4f}]"
