"""Whether an NPU takes as much of a network as the recipe demands; what falls back to the CPU is named."""

from __future__ import annotations

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
    said = f"gate FAILED: {100 * found:.1f} % of operators on the NPU; on the CPU: {left}"
    hint = f"a network without them, or --set {KEY}={found:.3f}"
    return CheckFailed(made.id, said, f"at least {100 * least:g} % ({KEY})", hint)
