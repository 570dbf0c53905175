"""`python3 runner.pyz COMMAND`: stdout gets lines of JSON, an error is one line of JSON on stderr.

    selftest BUNDLE               every file, the engine, the golden images
    bench BUNDLE OUT [--turns] [--tell]  latency, throughput and accuracy; again with the same OUT goes on where it was cut short
    predict BUNDLE IMAGE...       a line for each image or image of a folder
    serve-stdin BUNDLE            a line for each request on stdin
    probe                         what this machine is and has

Without BUNDLE it is the folder that runner.pyz lies in; OUT is then, unless given, a folder beside it.

Exit codes: 0 ok; 2 usage; 3 a check of the result failed; 4 measurement void; 5 runtime missing; 6 integrity; 7 the run could
not finish; 8 an engine of another machine; 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Dict, List, NoReturn, Optional, TextIO

from edgekd.runner import bundle as bundles
from edgekd.runner import signature
from edgekd.runner.bundle import Bundle
from edgekd.runner.failure import INTERRUPTED, MISSING, STAGE_FAILED, USAGE, RunnerError

COMMANDS = {
    "selftest": "check every file and the golden answers",
    "bench": "measure a bundle",
    "predict": "classify images",
    "serve-stdin": "classify what each line of stdin asks",
    "probe": "what this machine is and has",
}
STOPS = ("SIGTERM", "SIGHUP")  # as Ctrl-C: what is finished is kept


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing."""
        usage = " ".join(self.format_usage().split()[1:])
        raise RunnerError(USAGE, self.prog, message, usage, self.prog.replace("runner", "runner.pyz", 1) + " --help")


def main(arguments: Optional[List[str]] = None) -> int:
    """Run one command; gives its exit code."""
    if sys.stdout is None:  # closed by the caller: results are written all the same
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    before = {name: signal.signal(getattr(signal, name), _stop) for name in STOPS if hasattr(signal, name)}
    try:
        _run(_parsed(_here(sys.argv[1:] if arguments is None else arguments)))
        return 0
    except RunnerError as error:
        failure = error
    except MemoryError:
        failure = RunnerError(STAGE_FAILED, "runner", "out of memory", "memory for the model and one batch")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads it: nothing to say at exit either
        failure = RunnerError(STAGE_FAILED, "stdout", "nobody reads it any more", "a reader")
    except OSError as error:
        failure = RunnerError(STAGE_FAILED, str(error.filename or "runner"), error.strerror or str(error))
    except KeyboardInterrupt as stop:
        failure = RunnerError(INTERRUPTED, "runner", "interrupted" + "".join(" by " + str(why) for why in stop.args))
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
    print(failure.line(), file=sys.stderr)
    return failure.exit_code


def _stop(number: int, frame: Any) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _here(words: List[str]) -> List[str]:
    """The command line with what it leaves out, when the runner itself lies in a bundle and no word names another."""
    folder = Path(sys.argv[0]).resolve().parent
    given = [word for i, word in enumerate(words[1:]) if not word.startswith("-") and words[i] != "--public-key"]
    if not words or words[0] not in COMMANDS or words[0] == "probe" or not (folder / "bundle.json").is_file():
        return words
    if given and (Path(given[0]) / "bundle.json").is_file():
        return words
    out = [str(folder) + "-result"] if words[0] == "bench" and not given else []
    return [words[0], str(folder), *out, *words[1:]]


def _parsed(arguments: List[str]) -> argparse.Namespace:
    parser = Parser(prog="runner", description="Check, measure and use one model on this machine.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        if name == "probe":
            continue
        command.add_argument("bundle", type=Path, help="folder with bundle.json")
        command.add_argument("--public-key", metavar="FILE_OR_HEX", help="refuse a bundle that this key has not signed")
        if name == "bench":
            command.add_argument("out", type=Path, help="folder for result.json, samples.npz, predictions.npz")
            command.add_argument(
                "--turns", action="store_true", help="measure when stdin says `step N`, until `finish`"
            )
            command.add_argument("--tell", action="store_true", help="say on stderr what a run that is cut short keeps")
        if name == "predict":
            command.add_argument("image", type=Path, nargs="+", help="image, or folder of images")
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.error("no command")
    return chosen


def _run(chosen: argparse.Namespace) -> None:
    """The signature and the bundle.json first; only then anything else is loaded."""
    bundle: Optional[Bundle] = None
    if chosen.command != "probe":
        key = None if chosen.public_key is None else _key(chosen.public_key, chosen.bundle)
        bundle = bundles.read(chosen.bundle, key)
    try:
        from edgekd.runner import bench, loaded, predict, turns  # NumPy's absence is an answer, not a traceback
        from edgekd.runner.probe import probe
    except ImportError as error:
        hint = "pip install " + (error.name or "numpy")
        raise RunnerError(MISSING, "python " + sys.executable, str(error), "NumPy", hint) from error
    if bundle is None:
        _say(probe())
    elif chosen.command == "selftest":
        model = loaded.load(bundle)
        _say({"target": bundle.target, **model.facts, "golden": model.golden()})
    elif chosen.command == "predict":
        predict.predict(bundle, chosen.image, _say)
    elif chosen.command == "serve-stdin":
        predict.serve(bundle, _stdin(), _say)
    else:
        out = _outside(chosen.out, chosen.bundle)
        if chosen.turns:
            result = turns.bench(bundle, out, _stdin(), sys.stdout)
        else:
            result = bench.bench(bundle, out, chosen.tell)
        if result is not None:
            _say({"verdict": result["verdict"], "kind": result["kind"], "result": str(out / "result.json")})


def _outside(out: Path, bundle: Path) -> Path:
    """A folder for results; in the bundle they would be files that it does not list."""
    if bundle.resolve() in (out.resolve(), *out.resolve().parents):
        raise RunnerError(USAGE, str(out), "lies in the bundle", "a folder beside it", "runner.pyz bench BUNDLE ../out")
    return out


def _key(given: str, bundle: Path) -> bytes:
    """The public key, of whom the user trusts: who made the bundle can lay a key into it."""
    file, folder = Path(given), bundle.resolve()
    if file.is_file() and folder in file.resolve().parents:
        raise RunnerError(USAGE, "--public-key " + given, "lies in the bundle", "a key that came by another way")
    return signature.public_key(given)


def _stdin() -> TextIO:
    """Bytes that are no UTF-8 make a wrong request, not a traceback; a closed one says nothing."""
    if sys.stdin is None:
        return io.StringIO("")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    return sys.stdin


def _say(values: Dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    sys.exit(main())
