"""`edgekd compare --minutes`: how many epochs fit, the same for all students. Chosen once, then kept: a second run is free."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd import records
from edgekd.artifact import Artifact
from edgekd.commands.students import Students, rehearsed
from edgekd.comparison import Comparison, Method
from edgekd.durable import inside, write_whole
from edgekd.errors import IntegrityError, UsageError
from edgekd.keys import context_of

BATCHES = 12  # of each method's rehearsal for its speed, the first one left out
RESERVE = 0.1  # part of the time kept for start-up, checkpoints and a machine that is slower later
FILE = "budget.json"


@dataclass(frozen=True)
class Speed:
    """What a student costs.

    Attributes:
        start_s: Seconds before the first and after the last epoch.
        epoch_s: Seconds of an epoch, validation included.
    """

    start_s: float
    epoch_s: float


def fitting(speeds: Sequence[Speed], seeds: int, seconds: float) -> int:
    """Epochs that all students can have in so many seconds; 0 when not even one."""
    usable = seconds * (1 - RESERVE) - seeds * sum(speed.start_s for speed in speeds)
    return max(0, math.floor(usable / (seeds * sum(speed.epoch_s for speed in speeds))))


def recorded(folder: Path) -> dict[str, Any] | None:
    """What was chosen before; None when nothing was.

    Raises:
        IntegrityError: It is damaged.
    """
    path, hint = folder / FILE, "remove this file; the methods are timed again"
    if not path.exists():
        return None
    values: Any = records.read_json(path, str(path), hint)
    known = isinstance(values, dict) and isinstance(values.get("epochs"), int) and values["epochs"] > 0
    if (
        not known
        or not isinstance(values.get("epoch_seconds"), dict)
        or values.get("slowest") not in values["epoch_seconds"]
    ):
        raise IntegrityError(str(path), "is damaged", "what --minutes chose", hint)
    return dict(values)


def choose(comparison: Comparison, students: Students, minutes: float, since: float, folder: Path) -> dict[str, Any]:
    """Time every method on a few batches, choose the epochs and write them down.

    Args:
        comparison: What shall be compared.
        students: What comes before them is made.
        minutes: Of wall time for everything.
        since: `time.monotonic()` at the start of the command.
        folder: Where the choice is kept.

    Raises:
        UsageError: Not even one epoch fits.
    """
    seeds, fit = len(comparison.seeds), comparison.recipe.student.fit
    assert fit is not None  # refused by `compared`
    epochs, speeds = fit.epochs, {}
    for _ in range(2):  # again where so few epochs are left that they run uncompiled, or so many that they do not
        compiled = _compiles(comparison, students, epochs)
        speeds = {method.label: _speed(comparison, method, students, compiled) for method in comparison.methods}
        epochs = fitting(list(speeds.values()), seeds, 60 * minutes - (time.monotonic() - since))
        if _compiles(comparison, students, epochs) == compiled:
            break
    if epochs < 1:
        spent = (time.monotonic() - since) / 60
        need = seeds * sum(speed.start_s + speed.epoch_s for speed in speeds.values()) / 60 / (1 - RESERVE) + spent
        found = f"not one epoch of {seeds * len(speeds)} students fits"
        raise UsageError(f"--minutes {minutes:g}", found, f"about {need:.1f} minutes", "fewer seeds or methods")
    slowest = max(speeds, key=lambda label: speeds[label].epoch_s)
    seconds = {label: round(speed.epoch_s, 4) for label, speed in speeds.items()}
    chosen = {"minutes": minutes, "epochs": epochs, "slowest": slowest, "epoch_seconds": seconds}
    write_whole(inside(students.settings.workspace, folder) / FILE, json.dumps(chosen, indent=1).encode())
    return chosen


def _compiles(comparison: Comparison, students: Students, epochs: int) -> bool:
    from edgekd.fit import compiling

    step, inputs = students.inputs(comparison.student(comparison.methods[0], comparison.seeds[0]))
    params: Any = step.params
    fit = params.fit.model_copy(update={"epochs": max(epochs, 1)})
    return compiling.decide(fit, _images(params, inputs["data"]), context_of(params, students.settings).device).on


def _images(params: Any, data: Artifact) -> int:
    """Training images: those held out come from train unless the data have a val split of their own."""
    held = 0 if "n_val" in data.metrics else params.roles.val
    return int(params.roles.train or data.metrics["n_train"] - held)


def _speed(comparison: Comparison, method: Method, students: Students, compiled: bool) -> Speed:
    recipe = comparison.student(method, comparison.seeds[0])
    step, inputs = students.inputs(recipe)
    params: Any = step.params
    start = time.monotonic()
    seconds = rehearsed(students, recipe, BATCHES, compiled)
    whole = time.monotonic() - start
    facts: Mapping[str, Any] = inputs["data"].metrics
    val = params.roles.val or facts.get("n_val", 0)
    forward = seconds / 2  # a third of the student's step; evaluation runs uncompiled, and the teacher is in the step
    trained = BATCHES * params.fit.batch_size * seconds
    begin = max(whole - trained, 0.0) + (val + facts.get("n_test", 0)) * forward
    return Speed(begin, _images(params, inputs["data"]) * seconds + val * forward)
