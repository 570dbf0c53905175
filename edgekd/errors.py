"""The error tree: every failure a user can cause or meet says where, what was found, what was expected, what to type.

Each class owns one exit code and one stable `reason` word that `--json` prints.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class EdgekdError(Exception):
    """Base of every error that edgekd raises on purpose.

    Args:
        where: Recipe key, file, step or device that the error is about.
        found: What is there.
        expected: What would be right; may be empty.
        hint: The line to type or the change to make; may be empty.
    """

    exit_code = 1
    reason = "bug"
    told = False  # True: another process of this run has said it

    def __init__(self, where: str, found: str, expected: str = "", hint: str = "") -> None:
        self.where = where
        self.found = found
        self.expected = expected
        self.hint = hint
        super().__init__(self.__str__())

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.found}"]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.hint:
            lines.append(f"  try: {self.hint}")
        return "\n".join(lines)


class UsageError(EdgekdError):
    """A call that cannot be carried out as typed: exit 2."""

    exit_code = 2
    reason = "usage"


class RecipeError(UsageError):
    """A recipe, an override or the data that it names is wrong: exit 2."""

    reason = "recipe"


class CheckFailed(EdgekdError):
    """The result was made and is not good enough (expect_top1, parity, golden batch, gate): exit 3."""

    exit_code = 3
    reason = "check_failed"


class MeasurementVoid(EdgekdError):
    """The measurement was taken and must not be used (provider fallback, throttling, mode change): exit 4."""

    exit_code = 4
    reason = "measurement_void"


class MissingTool(EdgekdError):
    """A tool, board, runtime or package is not there, or is broken: exit 5."""

    exit_code = 5
    reason = "missing_tool"


class IntegrityError(EdgekdError):
    """Bytes are not what they were said to be (tampering, corrupt data, artifact or checkpoint): exit 6."""

    exit_code = 6
    reason = "integrity"


class StageFailed(EdgekdError):
    """A stage could not finish (disk full, read-only folder, worker died, out of memory): exit 7."""

    exit_code = 7
    reason = "stage_failed"


class Diverged(StageFailed):
    """A loss is no number any more: these settings do not train this network."""


class EngineMismatch(EdgekdError):
    """An engine of another version or chip: exit 8."""

    exit_code = 8
    reason = "engine_mismatch"


def revived(reason: str, where: str, found: str, expected: str, hint: str) -> EdgekdError:
    """The error that another process met."""
    known = EdgekdError.__subclasses__() + UsageError.__subclasses__()
    return next(kind for kind in known if kind.reason == reason)(where, found, expected, hint)


def nearest(word: str, known: Iterable[str]) -> str:
    """The hint for a mistyped name: the nearest known one, or all of them when none is near."""
    names = sorted(known)
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else "one of: " + ", ".join(names)
