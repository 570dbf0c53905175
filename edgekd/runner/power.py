"""Energy of one inference: power while queries run, less the power at rest, over the very window of the latency run.

A sensor shows an average that it renews now and then; reading it faster than that reads the same figure again. What counts is
the number of its updates inside the window.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from edgekd import stats
from edgekd.runner.failure import RunnerError
from edgekd.runner.probes.base import Probe, open_probe
from edgekd.runner.sampler import Sampler

if TYPE_CHECKING:
    import numpy.typing as npt

    Reading = Tuple[float, Dict[str, float]]

READ_EVERY_S = 0.05  # faster than the sensors renew their figures, slow enough to leave the processor alone
REST_S = 3.0  # at rest before the run; 60 readings
NEEDED_UPDATES = 32  # the interval of a mean wants 5 blocks, and a block of n values is 2 n^(1/3) long: 5 * 6.3 = 32
WHY = (
    "{} updates of the sensor in {:.1f} s, and {} are needed: the interval rests on 5 blocks of dependent values, "
    "which are 2 n^(1/3) long"
)
ROOT = Path("/")


class Meter:
    """Reads one probe, first at rest, then while queries run.

    Attributes:
        result: `power` of result.json: probe, rails {name: {what, idle_mw, mean_mw}}, total (how the whole was taken), idle_mw,
            mean_mw, energy_mj with energy_low_mj and energy_high_mj (95 %), n_updates, n_needed, seconds, queries, refused (why
            there is no figure, else None), note. Empty where no probe is asked for.
    """

    def __init__(self, asked: Dict[str, Any], root: Path = ROOT) -> None:
        self.result: Dict[str, Any] = {"probe": str(asked.get("use")), "refused": None} if asked else {}
        self._probe: Optional[Probe] = None
        self._rest: List[Reading] = []
        if not asked:
            return
        try:
            self._probe = open_probe(asked, root)
        except RunnerError as error:  # no energy figure is no fault of the latencies: it is said in its place
            self.result["refused"] = "{}: {}".format(error.where, error.found)
            return
        rails = self._probe.rails
        how = "rail " + self._probe.total if self._probe.total else "sum of {} rails".format(len(rails))
        self.result.update(
            rails={rail: {"what": what} for rail, what in rails.items()}, total=how, note=self._probe.note
        )

    def rest(self, seconds: float = REST_S) -> None:
        """Measure the power at rest: nothing of ours runs meanwhile."""
        if self._probe is None:
            return
        with self._reading() as values:
            time.sleep(seconds)
        self._rest = values

    @contextmanager
    def window(self) -> Iterator[List[Reading]]:
        """Read while the block runs; gives the list that the readings are put into."""
        if self._probe is None:
            yield []
            return
        with self._reading() as values:
            yield values

    def finish(self, readings: List[Reading], queries: int, span: Tuple[float, float]) -> Dict[str, Any]:
        """`result`, from the readings taken while so many queries were answered.

        Args:
            readings: Of `window`; those before the first query and after the last one are left out.
            queries: Answered.
            span: Begin of the first and end of the last query, in seconds of `time.perf_counter`.
        """
        if self._probe is None or self.result["refused"] is not None:
            return self.result
        readings = [reading for reading in readings if span[0] <= reading[0] <= span[1]]
        if len(self._rest) < 2 or len(readings) < 2:
            self.result["refused"] = "the sensor was read {} times".format(min(len(self._rest), len(readings)))
            return self.result
        rest, run = self._mw(self._rest), self._mw(readings)
        for rail, facts in self.result["rails"].items():
            facts.update(idle_mw=_mean(self._rest, rest[rail]), mean_mw=_mean(readings, run[rail]))
        wanted = [self._probe.total] if self._probe.total else list(self._probe.rails)
        idle, busy = (np.sum([power[rail] for rail in wanted], axis=0) for power in (rest, run))
        self._conclude(idle, busy, readings, queries, span[1] - span[0])
        return self.result

    def _conclude(
        self,
        idle: npt.NDArray[np.float64],
        busy: npt.NDArray[np.float64],
        readings: List[Reading],
        queries: int,
        seconds: float,
    ) -> None:
        assert self._probe is not None
        counts = self._probe.counts_energy
        updates = int(np.count_nonzero(busy)) if counts else 1 + int(np.count_nonzero(np.diff(busy)))
        needed = 2 if counts else NEEDED_UPDATES
        self.result.update(n_updates=updates, n_needed=needed, seconds=seconds, queries=queries)
        if updates < needed:
            self.result["refused"] = WHY.format(updates, seconds, needed)
            return
        at_rest, at_work = _mean(self._rest, idle), _mean(readings, busy)
        each = seconds / queries  # of one query, with what lies between two: the window is theirs alone
        seldom = 0 if counts else NEEDED_UPDATES
        spans = _interval(busy, at_work, seldom), _interval(idle, at_rest, seldom)
        low, high = _difference(at_work, spans[0], at_rest, spans[1])
        self.result.update(idle_mw=at_rest, mean_mw=at_work, energy_mj=(at_work - at_rest) * each)
        self.result.update(energy_low_mj=low * each, energy_high_mj=high * each)

    def _mw(self, readings: List[Reading]) -> Dict[str, npt.NDArray[np.float64]]:
        """Milliwatts by rail; of a sensor that counts energy, the mean between each reading and the next."""
        assert self._probe is not None
        found = {rail: np.array([values[rail] for _, values in readings]) for rail in self._probe.rails}
        if not self._probe.counts_energy:
            return found
        seconds = np.diff([moment for moment, _ in readings])
        return {rail: np.diff(energy) / seconds for rail, energy in found.items()}

    @contextmanager
    def _reading(self) -> Iterator[List[Reading]]:
        """Read in the background; a sensor that goes away refuses the figure and stops nothing."""
        probe = self._probe
        assert probe is not None
        try:
            with Sampler(lambda: (time.perf_counter(), probe.read()), READ_EVERY_S) as sampler:
                yield sampler.values
        except RunnerError as error:
            if error.where.startswith("power"):
                self.result["refused"] = "{}: {}".format(error.where, error.found)
            else:
                raise


def _mean(readings: List[Reading], power: npt.NDArray[np.float64]) -> float:
    """Over time, by the trapezoid rule: readings are not equally far apart. Means between readings are weighed by their length."""
    seconds = np.diff([moment for moment, _ in readings])
    steps = power if len(power) == len(seconds) else (power[1:] + power[:-1]) / 2
    return float(np.sum(steps * seconds) / np.sum(seconds))


def _interval(power: npt.NDArray[np.float64], mean: float, needed: int) -> Tuple[float, float]:
    """Of the mean over time; of a sensor that was renewed less often than needed, all that it showed. A steady one's is a point."""
    updates = 1 + int(np.count_nonzero(np.diff(power)))
    if len(power) < stats.LEAST_FOR_INTERVAL or updates < needed:
        return float(power.min()), float(power.max())
    low, high = stats.mean_interval(power)
    shift = mean - float(power.mean())  # readings are not equally far apart
    return low + shift, high + shift


def _difference(a: float, of_a: Tuple[float, float], b: float, of_b: Tuple[float, float]) -> Tuple[float, float]:
    """Interval of a - b from the intervals of both, which know nothing of each other: squares of the distances add up.

    Source: G. Zou, A. Donner, Construction of confidence limits about effect measures: a general approach, 2008.
    """
    low = a - b - math.hypot(a - of_a[0], of_b[1] - b)
    return low, a - b + math.hypot(of_a[1] - a, b - of_b[0])
