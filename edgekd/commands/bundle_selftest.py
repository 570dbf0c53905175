"""A bundle tested by its own runner on this machine, as a board would test it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgekd.errors import EdgekdError, StageFailed, revived
from edgekd.params import BenchParams
from edgekd.runner.failure import INTERRUPTED, MISSING, REASONS, VOID
from edgekd.stages.bench_bundle import RUNNER

ELSEWHERE = (MISSING, VOID)  # the runner's exit codes where this machine lacks what the board has


def selftest(folder: Path, params: BenchParams, public: str | None) -> dict[str, Any]:
    """What the bundle's own runner says of it on this machine.

    Raises:
        EdgekdError: It is not good.
    """
    signed = [] if public is None else ["--public-key", public]
    folder = folder.resolve()  # it is started in another folder than this one
    argv = [sys.executable, str(folder / RUNNER), "selftest", str(folder), *signed]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, cwd=folder.parent)
    if done.returncode == 0:
        return {"ran": True, "said": _last(done.stdout)}
    error = _error(done.returncode, done.stderr)
    if done.returncode == MISSING or (done.returncode in ELSEWHERE and params.transport != "local"):
        return {"ran": False, "why": f"{error.where}: {error.found}"}
    raise error


def _error(code: int, stderr: str) -> EdgekdError:
    last = _last(stderr)
    if code in REASONS and code != INTERRUPTED and isinstance(last, dict):
        return revived(REASONS[code], f"selftest: {last['where']}", last["found"], last["expected"], last["hint"])
    return StageFailed("selftest", f"exit code {code}: {stderr.strip()[-400:]}", "an answer in JSON")


def _last(text: str) -> Any:
    """The last line as JSON; as it is where it is none."""
    line = (text.strip().splitlines() or [""])[-1]
    try:
        return json.loads(line)
    except ValueError:
        return line
