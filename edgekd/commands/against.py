"""`edgekd bench --against NAME`: our runner and somebody else's stopwatch on the same file, in turn, in one run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekd.analysis import turns as figures
from edgekd.commands import current
from edgekd.commands.bench_turns import PREFIX, TurnsOptions, find_entries, place_of, work_folder
from edgekd.commands.say_turns import facts_of, finish
from edgekd.console import Console
from edgekd.errors import MissingTool, UsageError, nearest
from edgekd.stages import rivals
from edgekd.stages.bench_turns import measure
from edgekd.stages.turns import Rounds

ALONE = ("inference", "compute")  # names of the part of ours that a rival times, the first that is there


def against(rival: str, options: TurnsOptions) -> None:
    """Measure the file named, or the current run's last export, with both, and print the ratio.

    Raises:
        UsageError: No such rival, several files, or nothing is exported.
        MissingTool: The rival is not installed, or the device is not this machine.
    """
    makers = rivals.names()
    if rival not in makers:
        raise UsageError(f"--against {rival}", "unknown name", nearest(rival, makers), "edgekd bench --help")
    if len(options.references) > 1:
        raise UsageError("--against", f"{len(options.references)} files", "one", f"edgekd bench A --against {rival}")
    options = replace(options, references=options.references or [_last(options.workspace)])
    console = Console()
    entry = find_entries(options, console)[0]
    if entry.params.transport != "local":
        found = f"{entry.params.device} is not this machine"
        raise MissingTool("--against", found, "a program that runs here", f"run {rival} on the board itself")
    work = work_folder(options.workspace)
    kept = work.with_name(work.name + "-rival")
    kept.mkdir(parents=True, exist_ok=True)
    try:
        theirs = makers[rival](entry, kept)
        ours = replace(entry, name="edgekd")
        console.log(f"{entry.inputs['export'].id}: edgekd's runner and {rival} take turns")
        found_all = measure([ours], work, console.log, options.seed, [theirs])
    finally:
        shutil.rmtree(kept, ignore_errors=True)
    part = part_of(found_all.rounds)
    effects = figures.effects(found_all.rounds.blocks, {"edgekd": part}, found_all.rounds.sittings)
    facts: dict[str, Any] = facts_of("against", [ours], found_all, effects, options.seed)
    facts |= {"against": rival, "part": part}
    facts["advice"] = _words(facts)
    finish(facts, place_of(facts, options), options.json, f"edgekd bench{current.option(options.workspace)}")


def part_of(rounds: Rounds) -> str:
    """The part of ours that is held against a rival: the network alone, without the preparation of its input.

    Raises:
        UsageError: The runner does not time it apart.
    """
    there = rounds.blocks["edgekd"][0]
    found = next((name for name in ALONE if name in there), None)
    if found is None:
        raise UsageError("--against", "the runner times " + ", ".join(there), "the network alone", "edgekd bench")
    return found


def _words(facts: dict[str, Any]) -> list[str]:
    part, rival = facts["part"], facts["against"]
    mine = next(run for run in facts["runs"] if run["name"] == "edgekd")["latency"][part]
    return [f"compared: the {part} of edgekd (p50 {mine['p50_ms']:.4f} ms) with what {rival} times, the network alone"]


def _last(workspace: Path) -> str:
    run = current.require(workspace, "an exported file")
    exports = [step for step in run.steps if step.startswith(PREFIX)]
    if not exports:
        raise UsageError(f"workspace {workspace}", "the current run has exported nothing", "an export", "edgekd export")
    return exports[-1]
