"""Whether an NPU takes as much of a network as the recipe demands; what falls back to the CPU is named."""

from __future__ import annotations

import math

from edgekd.artifact import Artifact
from edgekd.errors import CheckFailed
from edgekd.recipe import Gate

KEY = "gate.npu_coverage"


def refused(gate: Gate | None, made: Artifact) -> CheckFailed | None:
    """The failure of an artifact whose compiler placed too few operators on the NPU; None: enough, none demanded, or no NPU."""
    least = None if gate is None else gate.npu_coverage
    found = made.metrics.get("npu_coverage")
    if least is None or found is None or found >= least:
        return None
    left = made.metrics.get("fell_back") or "operators that the compiler does not name"
    enough = math.floor(1000 * found + 1e-9) / 1000  # rounded up it would fail again
    said = f"gate FAILED: {100 * enough:.1f} % of operators on the NPU; on the CPU: {left}"
    hint = "a network without them" + (f", or --set {KEY}={enough:g}" if enough > 0 else "")
    return CheckFailed(made.id, said, f"at least {100 * least:g} % ({KEY})", hint)
