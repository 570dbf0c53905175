"""Starts a worker inside a tool's environment: `python bootstrap.py WORKER.py JOB.json RESULT.json`.

Run by that environment's Python: standard library alone, and nothing of edgekd. A worker is a file with
`main(job: dict) -> dict`; what it prints is the log. What ends it is said by the exit code and, as JSON, by the last line. An error of
the runner, whose engines some workers use, keeps what it says: its own exit code among it.
"""

import errno
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

BROKEN, DISK, MEMORY, TOLD = 65, 66, 67, 68  # exit codes; any other one but 0: the worker died
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
SAYS = "edgekd-worker: "


def run(worker: str, job: str, result: str) -> int:
    """Run a worker; its exit code."""
    try:
        spec = importlib.util.spec_from_file_location("worker", worker)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        answer = module.main(json.loads(Path(job).read_text(encoding="utf-8")))
        Path(result).write_text(json.dumps(answer, allow_nan=False), encoding="utf-8")
    except ImportError as error:
        return _say(BROKEN, str(error), error.name or "")
    except MemoryError as error:
        return _say(MEMORY, str(error) or "out of memory")
    except OSError as error:
        if error.errno not in FULL:
            raise
        return _say(DISK, str(error))
    except _own() as error:
        print(SAYS + error.line(), flush=True)
        return TOLD
    return 0


def _own() -> tuple[Any, ...]:
    """The runner's error, where the worker has loaded a runner."""
    module = sys.modules.get("edgekd.runner.failure")
    return () if module is None else (module.RunnerError,)


def _say(code: int, found: str, name: str = "") -> int:
    print(SAYS + json.dumps({"found": found, "name": name}), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
