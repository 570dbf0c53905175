"""`make test-faults`: kill -9 at random moments over all stages, then every other fault; a table, JSON, exit 1 when anything was lost.

python -m tests.faults.campaign --kills 200 --seed 0
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

import typer

from tests.faults import chain, kills, others

A_STAGE = 3  # kills of one stage in one workspace at most: a kill late in a stage is one that goes on from much
OTHER_TRIES = {"disk full": 6, "file size limit": 4, "checkpoint damaged": 6, "SIGTERM or SIGINT": 5}  # else 2


def main() -> int:
    """Run or go on with a campaign; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--faults", type=float, default=1.0, help="times the usual number of tries of the other faults; 0: none"
    )
    parser.add_argument("--only", choices=list(others.FAULTS), help="one of the other faults, and no kills")
    parser.add_argument(
        "--folder", type=Path, default=None, help="keeps what is done; the same folder goes on from there"
    )
    parser.add_argument("--json", type=Path, default=None, help="write the counts to this file, too")
    options = parser.parse_args()
    if options.only:
        options.kills = 0
    folder = options.folder or Path(tempfile.mkdtemp(prefix="faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    report = {"seed": options.seed, "kills": _kills(folder, options), "faults": _others(folder, options)}
    report["minutes"] = round((time.monotonic() - start) / 60, 1)
    _print(report)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if report["kills"]["problems"] or any(row["problems"] for row in report["faults"]) else 0


def _kills(folder: Path, options: argparse.Namespace) -> dict:
    """Workspaces, one after the other, until so many processes were killed; each is kept in a file once it is done."""
    kept = folder / f"kills-{options.seed}.json"
    rounds = json.loads(kept.read_text()) if kept.exists() else []
    done = Counter[str]()
    for one in rounds:
        done.update(one["kills"])
    if done.total() < options.kills:
        wanted, usual = chain.unbroken(folder / "unbroken")
        stages = ["start", *[step for step in usual if step not in ("start", "report")], "report"]
    while done.total() < options.kills:
        left = options.kills - done.total()
        fewest = sorted(stages, key=lambda stage: done[stage])
        quota = dict.fromkeys(stages, 0)
        for n in range(min(left, A_STAGE * len(stages))):
            quota[fewest[n % len(stages)]] += 1
        random = Random(f"{options.seed} {len(rounds)}")
        count = kills.campaign(folder / f"kill-{len(rounds)}", wanted, usual, quota, random)
        rounds.append({"kills": dict(count.kills), "survived": dict(count.survived), "problems": count.problems})
        done.update(count.kills)
        kept.write_text(json.dumps(rounds))
        _say(f"workspace {len(rounds)}: {count.kills.total()} kills, {done.total()} in all", count.problems)
        if not count.kills:
            break
    total: dict = {"workspaces": len(rounds), "finished": sum(not one["problems"] for one in rounds)}
    for name in ("kills", "survived"):
        total[name] = dict(sum((Counter(one[name]) for one in rounds), Counter()))
    return {**total, "problems": [text for one in rounds for text in one["problems"]]}


def _others(folder: Path, options: argparse.Namespace) -> list[dict]:
    references: dict[tuple[str, ...], dict[str, str]] = {}
    rows = []
    chosen = {name: fault for name, fault in others.FAULTS.items() if options.only in (None, name)}
    for name, (fault, goal) in chosen.items():
        tries = round(OTHER_TRIES.get(name, 2) * options.faults)
        row: dict = {"fault": name, "tried": 0, "survived": 0, "skipped": "", "problems": []}
        for n in range(tries):
            if goal not in references:
                references[goal] = chain.unbroken(folder / "unbroken", *goal)[0]
            row["tried"] += 1
            try:
                fault(folder / f"{name.replace(' ', '-')}-{n}", references[goal], Random(f"{options.seed} {name} {n}"))
                row["survived"] += 1
            except chain.Failed as error:
                row["problems"].append(str(error))
            except others.Skipped as reason:
                row |= {"tried": 0, "skipped": str(reason)}
                break
        _say(f"{name}: {row['survived']} of {row['tried']} {row['skipped']}", row["problems"])
        rows.append(row)
    return rows


def _say(line: str, problems: list[str]) -> None:
    for text in [line, *problems]:
        typer.echo(text, err=True)


def _print(report: dict) -> None:
    killed, survived = report["kills"]["kills"], report["kills"]["survived"]
    typer.echo(f"{'killed with -9 in':24}{'kills':>8}{'survived':>10}")
    for stage in killed:
        typer.echo(f"{stage:24}{killed[stage]:8}{survived.get(stage, 0):10}")
    typer.echo(f"{'in all':24}{sum(killed.values()):8}{sum(survived.values()):10}")
    typer.echo(
        f"{report['kills']['finished']} of {report['kills']['workspaces']} workspaces finished with the ids of an unbroken run"
    )
    typer.echo(f"\n{'fault':24}{'tried':>8}{'survived':>10}")
    for row in report["faults"]:
        typer.echo(
            f"{row['fault']:24}{row['tried']:8}{row['survived']:10}  {'skipped: ' + row['skipped'] if row['skipped'] else ''}"
        )
    for text in [*report["kills"]["problems"], *(text for row in report["faults"] for text in row["problems"])]:
        typer.echo(f"\nLOST: {text}")


if __name__ == "__main__":
    sys.exit(main())
