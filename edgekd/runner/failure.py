"""The one error of the runner: an exit code and the same four fields as every edgekd error, as one JSON line."""

from __future__ import annotations

import json
from typing import Dict, Union

USAGE, CHECK_FAILED, VOID, MISSING, INTEGRITY, STAGE_FAILED, ENGINE_MISMATCH, INTERRUPTED = 2, 3, 4, 5, 6, 7, 8, 130

REASONS = {
    USAGE: "usage",
    CHECK_FAILED: "check_failed",
    VOID: "measurement_void",
    MISSING: "missing_tool",
    INTEGRITY: "integrity",
    STAGE_FAILED: "stage_failed",
    ENGINE_MISMATCH: "engine_mismatch",
    INTERRUPTED: "interrupted",
}


class RunnerError(Exception):
    """What ends a run.

    Args:
        exit_code: One of the constants of this module.
        where: File, key or device that it is about.
        found: What is there.
        expected: What would be right; may be empty.
        hint: The line to type; may be empty.
    """

    def __init__(self, exit_code: int, where: str, found: str, expected: str = "", hint: str = "") -> None:
        super().__init__("{}: {}".format(where, found))
        self.exit_code = exit_code
        self.where = where
        self.found = found
        self.expected = expected
        self.hint = hint

    def fields(self) -> Dict[str, Union[int, str]]:
        """exit_code, reason, where, found, expected, hint."""
        return {
            "exit_code": self.exit_code,
            "reason": REASONS[self.exit_code],
            "where": self.where,
            "found": self.found,
            "expected": self.expected,
            "hint": self.hint,
        }

    def line(self) -> str:
        """One line of JSON with the fields."""
        return json.dumps(self.fields())
