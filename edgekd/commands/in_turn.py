"""`edgekd bench` with files or with `--against`: which of the two commands is meant, and which options they do not take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.commands.against import against
from edgekd.commands.bench_turns import TurnsOptions, bench_turns
from edgekd.errors import UsageError

NOT_TAKEN = {"recipe": "--recipe", "from_": "--from", "format_": "--format", "dry_run": "--dry-run", "force": "--force"}


def in_turn(files: Sequence[str], rival: str | None, options: Mapping[str, Any]) -> None:
    """Measure files in turn, or one against somebody else's stopwatch.

    Args:
        files: As typed.
        rival: `--against`.
        options: The other options of `edgekd bench` by parameter name.

    Raises:
        UsageError: One of them is not taken here; or as the two commands raise.
    """
    for name, flag in NOT_TAKEN.items():
        if options.get(name):
            where = "edgekd bench " + (f"--against {rival}" if rival else " ".join(files))
            raise UsageError(
                where, f"{flag} is not taken here", "files that are exported", "edgekd bench A B --device D"
            )
    asked = TurnsOptions(
        references=files,
        device=options["device"],
        workspace=options["workspace"],
        data_root=options["data_root"],
        overrides=options["set_"],
        output=options["output"],
        json=options["json"],
    )
    if rival is not None:
        against(rival, asked)
    else:
        bench_turns(asked)
