"""`python3 runner.pyz bench BUNDLE_DIR OUT_DIR`: stdout gets one line of JSON, an error is one line of JSON on stderr.

Exit codes: 0 ok; 2 usage; 3 a check of the result failed; 4 measurement void; 5 runtime missing; 6 integrity; 7 the run could
not finish; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import List, NoReturn, Optional

from edgekd.runner.failure import INTERRUPTED, MISSING, STAGE_FAILED, USAGE, RunnerError


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing."""
        raise RunnerError(USAGE, "runner", message, "bench BUNDLE_DIR OUT_DIR", "runner.pyz --help")


def main(arguments: Optional[List[str]] = None) -> int:
    """Run one command; gives its exit code."""
    try:
        return _run(arguments)
    except RunnerError as error:
        failure = error
    except MemoryError:
        failure = RunnerError(STAGE_FAILED, "runner", "out of memory", "memory for the model and one batch")
    except OSError as error:
        failure = RunnerError(STAGE_FAILED, str(error.filename or "runner"), error.strerror or str(error))
    except KeyboardInterrupt:
        failure = RunnerError(INTERRUPTED, "runner", "interrupted")
    print(failure.line(), file=sys.stderr)
    return failure.exit_code


def _run(arguments: Optional[List[str]]) -> int:
    parser = Parser(prog="runner", description="Measure one model on this machine.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    command = commands.add_parser("bench", help="measure a bundle", description="Measure a bundle.")
    command.add_argument("bundle", type=Path, help="folder with bundle.json")
    command.add_argument("out", type=Path, help="folder for result.json, samples.npz, predictions.npz")
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.error("no command")
    try:
        from edgekd.runner.bench import bench  # NumPy's absence is an answer, not a traceback
    except ImportError as error:
        raise RunnerError(
            MISSING, "python " + sys.executable, str(error), "NumPy", "pip install " + (error.name or "numpy")
        ) from error
    result = bench(chosen.bundle, chosen.out)
    print(json.dumps({"verdict": result["verdict"], "result": str(chosen.out / "result.json")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
