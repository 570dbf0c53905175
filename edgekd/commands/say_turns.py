"""What is said of files that were measured in turn: plain data, a table, and every pair's ratio in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import profiles
from edgekd.analysis import turns as figures
from edgekd.artifact import canonical
from edgekd.commands import output
from edgekd.durable import write_whole
from edgekd.runner.bundle import REAL
from edgekd.stages.bench_turns import Entry, Measured

FILE = "turns.json"
COLUMNS = ("file", "target", "top-1 %", "p50 ms [95 %]", "p90 ms [95 %]", "n", "verdict")


def facts_of(
    command: str, entries: Sequence[Entry], found: Measured, effects: Sequence[Mapping[str, Any]], seed: int
) -> dict[str, Any]:
    """Everything that is said of the run, as plain data."""
    rounds, runs = found.rounds, []
    real = all(result.get("kind", REAL[0]) in REAL for result in found.results.values())
    for name, blocks in rounds.blocks.items():
        entry = next((entry for entry in entries if entry.name == name), None)
        result = found.results.get(name, {})
        about = {} if entry is None else {"artifact": entry.inputs["export"].id, "target": entry.params.target}
        said = {
            key: result.get(key) for key in ("kind", "verdict", "reasons", "accuracy", "peak_memory_mib", "load_ms")
        }
        medians = {part: [float(np.median(block[part])) / 1e6 for block in blocks] for part in blocks[0]}
        timed = {"latency": figures.figures(blocks), "round_p50_ms": medians}
        runs.append({"name": name, **about, **(said if result else {}), **(timed if real else {"latency": {}})})
    first = entries[0].params
    return {
        "command": command,
        "device": first.device,
        "threads": first.threads,
        "profile": first.profile,
        "machine": next(iter(found.results.values())).get("machine"),
        "seed": seed,
        "rounds": len(rounds.orders),
        "sittings": len(set(rounds.sittings)),
        "queries_a_block": rounds.queries,
        "runs": runs,
        "effects": list(effects) if real else [],
    }


def advice(entries: Sequence[Entry], effects: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to ship where an int8 file was measured beside a float one and is not shown to be faster."""
    precision = {entry.name: profiles.precision(str(_scheme(entry))) for entry in entries}
    said = []
    for effect in effects:
        kinds = {precision[effect["first"]]: effect["first"], precision[effect["second"]]: effect["second"]}
        if "int8" not in kinds or len(kinds) != 2:
            continue
        other = next(name for kind, name in kinds.items() if kind != "int8")
        if effect["first"] != kinds["int8"] or not effect["shown"]:
            said.append(f"int8 is not shown to be faster here: ship {other}, or {kinds['int8']} for its size alone")
    return said


def finish(facts: Mapping[str, Any], place: Path, json: bool, following: str) -> None:
    """Write the facts into a folder and print them."""
    write_whole(place / FILE, canonical({"schema_version": output.SCHEMA_VERSION, **facts}))
    if json:
        output.print_json({**facts, "written": str(place / FILE), "next": following})
        return
    output.print_table(COLUMNS, [_cells(run) for run in facts["runs"]], right=("top-1 %", "n"))
    for effect in facts["effects"]:
        output.say(effect["words"])
    pairs = len(facts["effects"])
    together = f"all {pairs} intervals hold together at 95 %" if pairs > 1 else "95 % interval"
    if pairs:
        output.say(
            f"ratios: within each of {facts['rounds']} rounds, {facts['sittings']} starts of every process; {together}"
        )
    else:
        output.say("no time is shown: the device is emulated or simulated (correctness only)")
    for line in [*facts.get("advice", ()), *_reasons(facts["runs"])]:
        output.say(line)
    output.say(f"written: {place / FILE}")
    output.next_command(following)


def _scheme(entry: Entry) -> Any:
    return entry.inputs["export"].manifest["params"].get("scheme", "none")


def _cells(run: Mapping[str, Any]) -> tuple[str, ...]:
    whole = run["latency"].get(figures.WHOLE, {})
    accuracy = run.get("accuracy") or {}
    top1 = f"{accuracy['top1_percent']:.2f}" if "top1_percent" in accuracy else ""
    spans = [_span(whole, p) for p in (50, 90)]
    return (run["name"], run.get("target", ""), top1, *spans, f"{whole.get('n', 0):,}", run.get("verdict") or "")


def _span(whole: Mapping[str, Any], p: int) -> str:
    if f"p{p}_ms" not in whole:
        return ""
    return f"{whole[f'p{p}_ms']:.4f} [{whole[f'p{p}_low_ms']:.4f}, {whole[f'p{p}_high_ms']:.4f}]"


def _reasons(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    said = {reason: run["name"] for run in runs for reason in run.get("reasons") or ()}
    return [f"{name}: {reason}" for reason, name in said.items()]
