"""Several devices at once: what is measured is made once, then each device measures in a thread of its own.

A device that fails stops none of the others; each failure is told, and the worst one's exit code is the command's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from edgekd.console import Console
from edgekd.errors import EdgekdError
from edgekd.keys import Settings
from edgekd.pipeline import Outcome, check_all, run
from edgekd.plan import Step
from edgekd.recipe import Recipe

Keep = Callable[[Sequence[Outcome]], object]


@dataclass
class Together:
    """What became of the steps, and of the devices that failed: {device: error}."""

    outcomes: list[Outcome]
    failures: dict[str, EdgekdError] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """The worst one's; 0 where none failed."""
        return max((error.exit_code for error in self.failures.values()), default=0)


class Named(Console):
    """A console of one device: every line says whose it is; what all have in common is not said again."""

    def __init__(self, name: str, console: Console) -> None:
        super().__init__(quiet=console.quiet)
        self._name, self._console, self.tty = name, console, False

    def log(self, line: str) -> None:
        """Write one line to stderr."""
        if not line.startswith("reused "):
            self._console.log(f"[{self._name}] {line}")


def devices_of(steps: Sequence[Step]) -> dict[str, list[Step]]:
    """{device: its bench steps}, in their order."""
    found: dict[str, list[Step]] = {}
    for step in steps:
        if step.kind == "bench":
            found.setdefault(step.name.partition("@")[2], []).append(step)
    return found


def run_together(recipe: Recipe, steps: Sequence[Step], settings: Settings, keep: Keep) -> Together:
    """Bring every step to an artifact; the bench steps of different devices at the same time.

    Args:
        recipe: The recipe.
        steps: From `steps_of`.
        settings: See `Settings`.
        keep: As for `pipeline.run`.

    Raises:
        EdgekdError: As `pipeline.run` raises for what all devices have in common; or no device at all can be measured.
    """
    groups = devices_of(steps)
    if len(groups) < 2:
        return Together(run(recipe, steps, settings, keep))
    failures = _unready(groups, settings)
    if len(failures) == len(groups):
        raise max(failures.values(), key=lambda error: error.exit_code)
    shared = [step for step in steps if step.kind != "bench"]
    outcomes = run(recipe, shared, settings, keep)
    one_at_a_time = threading.Lock()

    def measure(name: str) -> list[Outcome]:
        def keep_own(done: Sequence[Outcome]) -> None:
            with one_at_a_time:
                keep(done)

        own = groups[name]
        names = {step.name for step in own}
        force = names if "*" in settings.force else settings.force & names
        mine = replace(settings, console=Named(name, settings.console), force=frozenset(force))
        return [done for done in run(recipe, [*shared, *own], mine, keep_own) if done.step.name in names]

    with ThreadPoolExecutor(len(groups)) as pool:
        waiting = {name: pool.submit(measure, name) for name in groups if name not in failures}
    for name, future in waiting.items():
        error = future.exception()
        if isinstance(error, EdgekdError):
            failures[name] = error
        else:
            outcomes += future.result()
    return Together(outcomes, {name: failures[name] for name in groups if name in failures})


def _unready(groups: Mapping[str, Sequence[Step]], settings: Settings) -> dict[str, EdgekdError]:
    """The devices that cannot be measured, asked before anything is made."""
    found: dict[str, EdgekdError] = {}
    for name, steps in groups.items():
        try:
            check_all(steps, {}, settings)
        except EdgekdError as error:
            found[name] = error
    return found
