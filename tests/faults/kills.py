"""kill -9 at random moments over all stages of one workspace after the other, each of which must then finish."""

from __future__ import annotations

import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.faults import chain
from tests.faults.chain import Process, expect

SEALING = 0.3  # part of the kills that wait for a manifest: publishing takes milliseconds and is seldom hit by chance
AFTER_MANIFEST = 0.02  # seconds, from before the first fsync to behind the rename
TRIES = 3  # a process that ended before it could be killed is started again so often


@dataclass
class Count:
    """What became of the kills of one workspace.

    Attributes:
        kills: {stage: processes killed in it}.
        survived: {stage: of those, after which everything listed was whole}.
        problems: What was lost, one text each.
    """

    kills: Counter[str] = field(default_factory=Counter)
    survived: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def campaign(
    folder: Path,
    wanted: dict[str, str],
    usual: dict[str, float],
    quota: dict[str, int],
    random: Random,
    argv: tuple[str, ...] = ("run",),
) -> Count:
    """Kill one workspace `quota[stage]` times in each stage, in the order of the chain, then let it finish.

    Args:
        folder: Made here, and gone afterwards unless something failed.
        wanted: {step: id} of the unbroken run of the same command.
        usual: {stage: seconds that it takes}.
        quota: {stage: kills}.
        random: Decides the moments.
        argv: The command.
    """
    count = Count()
    stage = "start"
    with chain.fresh(folder):
        try:
            for stage, kills in quota.items():
                for _ in range(kills):
                    where = _kill(folder, stage, usual[stage], random, argv, wanted)
                    if where is not None:
                        count.kills[where] += 1
                        chain.check(folder, wanted)
                        count.survived[where] += 1
            stage = "finish"
            chain.finish(folder, wanted, *argv)
        except chain.Failed as error:
            count.problems.append(f"{stage}: {error}")
            shutil.copytree(folder, folder.with_name(f"{folder.name}-failed"), dirs_exist_ok=True)
    return count


def _kill(
    folder: Path, stage: str, usual: float, random: Random, argv: tuple[str, ...], wanted: dict[str, str]
) -> str | None:
    """Start, wait for a stage, kill at random; gives where it was, None when the stage is behind us."""
    for _ in range(TRIES):
        if stage == "report":
            shutil.rmtree(folder / "workspace" / "reports", ignore_errors=True)
        elif stage != "start" and stage in chain.ids(folder):
            return None
        process = Process(folder, argv)
        reached = (
            stage == "start" or process.reach(f"making  {stage} ") if stage != "report" else _behind_the_last(process)
        )
        if reached:
            if stage not in ("start", "report") and random.random() < SEALING:
                _wait_for_manifest(process, folder, stage)
                time.sleep(random.uniform(0, AFTER_MANIFEST))
            else:
                time.sleep(random.uniform(0, 1.1 * usual))
                chain.whole(folder, wanted)  # while it works
        where = process.stage if stage != "start" else stage
        if process.send(signal.SIGKILL):
            process.end()
            return where
        expect(process.end() in (0, 4), f"{stage}: exit {process.process.returncode}: {process.text[-2000:]}")
    return None


def _behind_the_last(process: Process) -> bool:
    """Wait until every step is there: the run is recorded and the report written then."""
    while (line := process.lines.get(timeout=chain.LIMIT)) is not None:
        if line.startswith(("made ", "reused ")) and "bench/onnx-int8@" in line:
            return True
    return False


def _wait_for_manifest(process: Process, folder: Path, stage: str) -> None:
    scratch = folder / "workspace" / "artifacts" / ".scratch"
    while process.process.poll() is None:
        if any(scratch.glob(f"{stage.replace('/', '~')}-*/out/*manifest.json*")) or stage in _sealed(folder, stage):
            return
        time.sleep(0.0005)


def _sealed(folder: Path, stage: str) -> tuple[str, ...]:
    there = any((folder / "workspace" / "artifacts" / stage).glob("*-*"))
    return (stage,) if there else ()
