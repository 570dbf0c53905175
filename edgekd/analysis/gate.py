"""The gate: may a step's file be shipped, given what it loses against the student on the same test images?

At each step behind the student (fake-quantized, float graph, quantized, measured) the one-sided 95 % upper bound of the
drop since the student must lie inside what the chain may have lost up to there:

- a step whose kind stands in `gate.stages`: the sum of the budgets of the kinds on its way from the student, its own
  included. What an earlier one did not lose is thereby left for it: the drop is always the whole one since the student,
  so nothing has to be estimated to be carried on, and nothing is carried on twice;
- any other step: `gate.max_drop_pp`, or the sum of all stages where that is left out.

No sum exceeds the chain's total. A chain passes when every step does, so a file whose true drop is its allowance or more
passes with probability <= 5 % whatever the others do: demanding more never lets more through, and no correction for the
number of steps is due. What suffers by their number is the chance of a good chain; see `resolution`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.analysis import coverage, marks
from edgekd.analysis.losses import Loss, answers, loss
from edgekd.artifact import Artifact
from edgekd.errors import CheckFailed, EdgekdError
from edgekd.predictions import FILE
from edgekd.recipe import Gate

KINDS = ("qat", "graph", "quantized", "export", "bench")  # steps that are held to it, in the order of the chain
ORIGINS = ("student", "graph")  # what drops are measured from: an ONNX file of the user's has no student before it
ROUNDING = 1e-9  # percentage points: 0.1 + 0.2 is not 0.3
LIKELY = (1.645 + 0.842) ** 2  # (normal quantiles of the bound and of 80 % passing), squared
NOTHING = -math.log(0.05)  # images that all agree bound the share that does not by this over their number


@dataclass(frozen=True)
class Judged:
    """A step held to the gate.

    Attributes:
        step: Its name.
        artifact: Its artifact's id.
        budget_pp: What may have been lost since the origin up to here.
        key: The recipe's key that says so.
        loss: What was.
        trained: Behind quantization-aware training, or it itself.
    """

    step: str
    artifact: str
    budget_pp: float
    key: str
    loss: Loss
    trained: bool = False

    @property
    def passed(self) -> bool:
        """The bound is inside the budget."""
        return self.loss.bound_pp <= self.budget_pp + ROUNDING

    @property
    def text(self) -> str:
        """One line."""
        found = self.loss
        return (
            f"{'passed' if self.passed else 'FAILED'}: drop {found.drop_pp:+.2f} pp against {found.to}, 95 % bound "
            f"{found.bound_pp:.3f} of {self.budget_pp:g} pp (n={found.n:,}, {found.lost} lost, {found.gained} gained)"
        )

    def figures(self) -> dict[str, Any]:
        """What a ledger and a mark keep."""
        drop, bound, n = self.loss.drop_pp, self.loss.bound_pp, self.loss.n
        figures = {"passed": self.passed, "budget_pp": self.budget_pp, "key": self.key, "to": self.loss.to}
        hint = "" if self.passed else self._hint()
        return {**figures, "drop_pp": drop, "bound_pp": bound, "n": n, "text": self.text, "hint": hint}

    def failure(self) -> CheckFailed:
        """The error of one that did not pass: what was found, and what to type."""
        return CheckFailed(
            self.artifact, f"gate {self.text}", f"a bound of at most {self.budget_pp:g} pp", self._hint()
        )

    def _hint(self) -> str:
        room = (self.budget_pp - self.loss.drop_pp) / 100
        larger = f"--set {self.key}=N with N above {self.loss.bound_pp:.3f}"
        if room <= 0:
            return f"{self._remedy()}, or {larger}"
        differing = (self.loss.lost + self.loss.gained) / self.loss.n
        images = 100 * math.ceil(max(LIKELY * differing / room**2, NOTHING / room) / 100)
        return f"the drop seen is inside, its bound is not: about {images:,} test images would show it; or {larger}"

    def _remedy(self) -> str:
        if kind(self.step) == "graph":
            return "edgekd parity"
        if kind(self.step) == "qat":
            return "more qat.epochs, or a smaller qat.lr"
        if kind(self.step) == "export":
            return "--set quantize.images=N with more of them, or (of a network) a qat section"
        other = "more qat.epochs" if self.trained else "--set quantize.use=mixed, or (of a network) a qat section"
        return f"edgekd sensitivity shows the layers that lose it; {other}"


def routes(made_from: Mapping[str, Iterable[str]], answering: Collection[str] = ()) -> dict[str, tuple[str, ...]]:
    """Of every step that is held to the gate: itself and the ones held to it before, in the order of the chain.

    Args:
        made_from: {step: steps that it is made from}, upstream first; all of one chain.
        answering: The exports that are evaluated where they are made; any other one is its source in another file.
    """
    start = origin(made_from)
    found: dict[str, tuple[str, ...]] = {}
    for name, inputs in made_from.items():
        before = [step for other in inputs for step in found.get(other, ())]
        held = kind(name) in KINDS and start is not None and name != start
        held = held and (kind(name) != "export" or name in answering)
        found[name] = tuple(dict.fromkeys([*before, name] if held else before))
    return {name: route for name, route in found.items() if route and route[-1] == name}


def origin(steps: Iterable[str]) -> str | None:
    """What drops are measured from: the student, or the graph where it was given; None: a quantized file was given."""
    there = set(steps)
    return next((name for name in ORIGINS if name in there), None)


def answering(artifacts: Mapping[str, Artifact]) -> list[str]:
    """The exports of a chain that hold answers of their own."""
    return [name for name, made in artifacts.items() if kind(name) == "export" and (made.path / FILE).is_file()]


def allowance(gate: Gate, route: Sequence[str]) -> tuple[float, str]:
    """(what may have been lost up to the end of a route, pp; the recipe's key that says so); see the top of this file."""
    last = kind(route[-1])
    if last in gate.named:
        kinds = {kind(step) for step in route}
        return sum(value for name, value in gate.named.items() if name in kinds), f"gate.stages.{last}"
    return gate.total_pp, "gate.max_drop_pp"


def judge(gate: Gate, route: Sequence[str], start: Artifact, made: Artifact) -> Judged | None:
    """One step held to the gate; None where it was not evaluated on test.

    Raises:
        IntegrityError: Stored answers cannot be read.
        CheckFailed: It answered other images than the origin.
    """
    before, after = answers(start), answers(made)
    if before is None or after is None:
        return None
    found = loss(start.step, before, after)
    return Judged(route[-1], made.id, *allowance(gate, route), found, "qat" in route)


def kind(step: str) -> str:
    """Its place in the chain."""
    return step.partition("/")[0]


class Watch:
    """Holds a run to its gate: each step as soon as it is there, made now or before; what stands behind a failed one is left out."""

    def __init__(self, gate: Gate | None, recipe: str, workspace: Path, tell: Callable[[str], None]) -> None:
        self.gate = None if gate is None else gate.budgeted
        self.demanded, self.recipe, self.workspace, self.tell = gate, recipe, workspace, tell
        self.made_from: dict[str, tuple[str, ...]] = {}
        self.stopped: dict[str, str] = {}  # step -> the one that fails: itself, or upstream of it
        self.unmade: dict[str, EdgekdError] = {}  # step of a tool chain -> why it could not be made
        self.failed: list[Judged] = []
        self.uncovered: list[CheckFailed] = []

    def leaves_out(self, name: str, inputs: Iterable[str]) -> bool:
        """Whether a step must not be made; said once."""
        self.made_from[name] = tuple(inputs)
        failed = next((self.stopped[step] for step in self.made_from[name] if step in self.stopped), None)
        if failed is not None:
            self.stopped[name] = failed
            why = "could not be made" if failed in self.unmade else "fails the gate"
            self.tell(f"left out {name}  (behind {failed}, which {why})")
        return failed is not None

    def fail(self, name: str, error: EdgekdError) -> None:
        """Keep the error of a step that could not be made; what does not stand behind it is made all the same."""
        self.tell(f"failed  {name}  ({error.found.splitlines()[0]})")
        self.unmade[name] = error
        self.stopped[name] = name

    def look(self, name: str, done: Mapping[str, Artifact]) -> None:
        """Judge a step and mark its artifact.

        Raises:
            CheckFailed: It cannot be compared with the origin.
        """
        uncovered = coverage.refused(self.demanded, done[name])
        if uncovered is not None:
            self.tell(f"gate    {name}  {uncovered.found}")
            self.uncovered.append(uncovered)
            self.stopped[name] = name
        route, start = routes(self.made_from, answering(done)).get(name), origin(done)
        if self.gate is None or route is None or start is None:
            return
        judged = judge(self.gate, route, done[start], done[name])
        if judged is None:
            return
        marks.write(self.workspace, judged.artifact, {"recipe": self.recipe, **judged.figures()})
        self.tell(f"gate    {name}  {judged.text}")
        if not judged.passed:
            self.failed.append(judged)
            self.stopped[name] = name

    def require(self) -> None:
        """Nothing, when every step was made and passed.

        Raises:
            EdgekdError: Some were not, or did not: the one with the highest exit code, and what is wrong with the others.
        """
        errors = [*self.unmade.values(), *(judged.failure() for judged in self.failed), *self.uncovered]
        if not errors:
            return
        worst = max(errors, key=lambda error: error.exit_code)
        others = [f"{other.where}: {other.found}" for other in errors if other is not worst]
        raise type(worst)(worst.where, "\n".join([worst.found, *others]), worst.expected, worst.hint)
