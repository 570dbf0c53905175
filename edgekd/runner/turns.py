"""Turn mode: a driver that measures several models says when each may work.

Once ready, a line `{"ready": true, ...}`. Each line `step N` on stdin is N queries and gives one line `{"queries": N, "ns": [N],
"parts": {name: [N]}}`: end-to-end nanoseconds, and those of what they consist of; `void`: why they must not be used. `finish` answers the test images, writes the
files of `bench` and ends. When stdin ends nothing is written. A line that is neither gets `{"error": ...}`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any, Dict, List, Optional, Tuple

from edgekd.runner import answers, measure, state
from edgekd.runner import bench as whole
from edgekd.runner import loaded as models
from edgekd.runner.answers import Data
from edgekd.runner.bundle import Bundle
from edgekd.runner.failure import USAGE, RunnerError
from edgekd.runner.loaded import Loaded
from edgekd.runner.partial import Partial

Steps = Tuple[Dict[str, Any], Dict[str, Any]]  # the counters before and after one
EXPECTED = "step N (N >= 1), or finish"
LONGEST_LINE, DIGITS = 1 << 12, 9  # of what a driver says: neither memory nor an endless step for garbage


def bench(bundle: Bundle, out: Path, asked: IO[str], said: IO[str]) -> Optional[Dict[str, Any]]:
    """Measure in steps; the result, None when stdin ended before `finish`.

    Raises:
        RunnerError: As `edgekd.runner.bench.bench`, and 2: `finish` before a step.
    """
    whole.profile_of(bundle)
    model = models.load(bundle)
    tests = answers.data(model)
    turns = Turns(model, tests)
    say(said, {"ready": True, "kind": model.kind, "runtime": model.facts["runtime"], "warm_up": turns.warm.queries})
    for line in iter(lambda: asked.readline(LONGEST_LINE), ""):
        words = line.split()
        if words == ["finish"]:
            return turns.finish(out)
        if _is_step(words):
            say(said, turns.step(int(words[1])))
        else:
            say(said, {"error": RunnerError(USAGE, "turns", repr(line.strip()[:80]), EXPECTED).fields()})
    model.runtime.close()
    return None


def _is_step(words: List[str]) -> bool:
    number = words[1] if len(words) == 2 and words[0] == "step" else ""
    return number.isascii() and number.isdigit() and len(number) <= DIGITS and int(number) >= 1


def say(to: IO[str], values: Dict[str, Any]) -> None:
    """One line of JSON, at once."""
    to.write(json.dumps(values) + "\n")
    to.flush()


class Turns:
    """A model that is measured in steps.

    Attributes:
        warm: Its warm-up.
    """

    def __init__(self, model: Loaded, tests: Data) -> None:
        self._model, self._tests = model, tests
        self._result = whole.begin(model, tests)
        self._stream, self._query, self._recorder = tests.stream(), model.query(), model.recorder()
        self._before = state.snapshot()
        self._looks: List[Dict[str, Any]] = []
        self._loads: List[Steps] = []
        warms_itself = model.runtime.whole
        self.warm = measure.WarmUp(0, 0.0, True) if warms_itself else measure.warm_up(self._query, self._pick)

    def step(self, count: int) -> Dict[str, Any]:
        """So many queries; what is said of them."""
        first = len(self._recorder)
        before = state.counters()
        with measure.quiet():
            self._own(count) if self._model.runtime.whole else self._timed(count)
        self._loads.append((before, state.counters()))
        self._looks.append(state.look())
        samples = self._recorder.samples(first)
        apart = {name: values for name, values in samples.latency.items() if name != "end_to_end"}
        parts = {name: values.tolist() for name, values in {**apart, **samples.parts}.items()}
        said = {"queries": len(samples.end_to_end), "ns": samples.end_to_end.tolist(), "parts": parts}
        verdict, reasons = state.verdict(self._before, self._looks[-1], [], others=(None, None))
        return {**said, "void": reasons} if verdict == state.VOID else said

    def finish(self, out: Path) -> Dict[str, Any]:
        """The accuracy pass, and the files."""
        if not self._loads:
            raise RunnerError(USAGE, "turns", "finish before any step", EXPECTED)
        samples = self._recorder.samples()
        looks = [self._before, *self._looks, state.snapshot()]
        whole.conclude(self._result, samples, self.warm, looks, state.load_of_steps(self._loads))
        self._result.update(includes_preprocess=not self._model.runtime.whole, turns=len(self._loads), power={})
        kept = Partial(out, whole.identity(self._model))
        kept.clear()
        whole.save_samples(samples, out)
        profile = whole.profile_of(self._model.bundle)
        self._result["offline"] = answers.throughput(self._model, self._tests, profile)
        return whole.complete(self._model, self._tests, kept, self._result, out)

    def _timed(self, count: int) -> None:
        for i in range(len(self._recorder), len(self._recorder) + count):
            self._recorder.add(self._query(self._pick(i)))

    def _own(self, count: int) -> None:
        """Queries of the engine's own loop."""
        engine = self._model.runtime
        for times in (engine.own_times(self._model.normalise(self._stream[0]), 0.0, count) or [])[:count]:
            engine.part_ns = times
            self._recorder.add((0, 0, sum(times), sum(times)))

    def _pick(self, i: int) -> Any:
        return self._stream[i % len(self._stream)]
