"""Whether figures taken on a machine in these states may be used, and what speaks against them."""

from __future__ import annotations

import statistics
from typing import Any, Dict, List, Optional, Sequence, Tuple

from edgekd.runner import heat
from edgekd.runner.readings import differing

VALID, UNLOCKED, VOID = "valid", "valid-unlocked", "void"
EMULATED = "emulated: correctness only"
OTHER_LOAD = 0.1  # cores used by other programs, above which they are named: a tenth of a core moves p90, rarely p50
STEAL = 0.01  # share of a core that the hypervisor took
SWAPPED_MIB = 16.0  # swap that was written meanwhile: less is the system tidying up
BELOW_LOCK = 0.9  # of a locked clock: counters that estimate a clock stray by some per cent

CHANGES = (
    ("governors", "the frequency governor"),
    ("usable_cores", "the number of usable cores"),
    ("power_mode", "the power mode"),
    ("mode", "the number of the power mode"),
)
State = Dict[str, Any]
Load = Tuple[Optional[float], Optional[float]]


def verdict(
    before: State, after: State, doubts: List[str], during: Sequence[State] = (), others: Optional[Load] = None
) -> Tuple[str, List[str]]:
    """Whether figures taken between two snapshots may be used, and what speaks against them.

    Args:
        before: Snapshot before warm-up.
        after: Snapshot after the last sample.
        doubts: What the samples themselves show.
        during: Looks taken meanwhile (`state.watch`), oldest first.
        others: Cores that other programs used and that the hypervisor took, where it was measured otherwise than between the
            two snapshots (in turn mode others work in between by intent).

    Returns:
        `void`: the machine changed its mode or its clocks' limits, or throttled; `valid-unlocked`: usable, but the clocks were
        not fixed, or others were at work; `valid`: neither. With the reasons.
    """
    later = [*during, after]
    void = heat.slowed(before, later) + _changed(before, later) + _below_lock(before, during)
    if void:
        return VOID, void
    reasons = [EMULATED] if before.get("emulated") else []
    reasons += [*doubts, *heat.held_down(before), *_unlocked(before)]
    working, stolen = others if others is not None else other_load(before, after)
    if working is not None and working > OTHER_LOAD:
        reasons.append("other programs used {:.2f} cores".format(working))
    if stolen is not None and stolen > STEAL:
        reasons.append("the hypervisor took {:.2f} cores".format(stolen))
    swapped = (after.get("swap_used_mib") or 0) - (before.get("swap_used_mib") or 0)
    if swapped > SWAPPED_MIB:
        reasons.append("{:.0f} MiB were swapped out meanwhile".format(swapped))
    return (UNLOCKED, reasons) if reasons else (VALID, reasons)


def other_load(before: State, after: State) -> Load:
    """Cores that other programs used, and cores that the hypervisor took, between two snapshots; None where not told."""
    if before["all_cpu_s"] is None or after["all_cpu_s"] is None:
        return None, None
    seconds = max(after["clock_s"] - before["clock_s"], 1e-9)
    own = after["own_cpu_s"] - before["own_cpu_s"]
    busy, stolen = (after["all_cpu_s"][name] - before["all_cpu_s"][name] for name in ("busy", "steal"))
    return max(0.0, (busy - own) / seconds), max(0.0, stolen / seconds)


def load_of_steps(steps: Sequence[Tuple[State, State]]) -> Load:
    """`other_load` of all steps together, each between two `state.counters`: what others did between steps is left out."""
    if not steps or any(look["all_cpu_s"] is None for step in steps for look in step):
        return None, None
    first = steps[0][0]
    spent = {name: sum(after[name] - before[name] for before, after in steps) for name in ("clock_s", "own_cpu_s")}
    used = {
        name: sum(after["all_cpu_s"][name] - before["all_cpu_s"][name] for before, after in steps)
        for name in ("busy", "steal")
    }
    last = {name: first[name] + spent[name] for name in spent}
    return other_load(first, {**last, "all_cpu_s": {name: first["all_cpu_s"][name] + used[name] for name in used}})


def locked(before: State) -> Optional[bool]:
    """Whether every clock that shows its limits stands still; None where none does and no governor says it."""
    limits = before.get("limits_mhz") or {}
    cores = [low == high for name, (low, high) in limits.items() if name.startswith("cpu")]
    others = [low == high for name, (low, high) in limits.items() if not name.startswith("cpu")]
    steady = before.get("governors") == ["performance"] and not before.get("turbo")
    if not cores and before.get("governors") is None:
        return None
    return (steady or (bool(cores) and all(cores))) and all(others)


def _changed(before: State, later: Sequence[State]) -> List[str]:
    found = []
    for look in later:
        for name, what in CHANGES:
            if name in look and before.get(name) != look[name]:
                found.append("{} changed from {} to {}".format(what, before.get(name), look[name]))
        if "limits_mhz" in look:
            for clock, (was, became) in differing(before.get("limits_mhz") or {}, look["limits_mhz"] or {}).items():
                found.append("the limits of clock {} changed from {} to {}".format(clock, _range(was), _range(became)))
    return list(dict.fromkeys(found))


def _below_lock(before: State, during: Sequence[State]) -> List[str]:
    """Locked cores that ran slower than their lock: something that no counter shows held them down.

    Of each look the fastest core against its lock: an x86 core at rest shows its lowest clock, whatever it is locked at.
    """
    limits = before.get("limits_mhz") or {}
    locks = {clock: high for clock, (low, high) in limits.items() if clock.startswith("cpu") and low == high > 0}
    looks = [{clock: mhz for clock, mhz in (look.get("now_mhz") or {}).items() if clock in locks} for look in during]
    fastest = [max((mhz / locks[clock], clock, mhz) for clock, mhz in cores.items()) for cores in looks if cores]
    if not fastest:
        return []
    share, clock, mhz = statistics.median_low(fastest)
    return ["{} ran at {:.0f} MHz, locked at {:.0f}".format(clock, mhz, locks[clock])] if share < BELOW_LOCK else []


def _unlocked(before: State) -> List[str]:
    limits = before.get("limits_mhz") or {}
    cores = [span for name, span in limits.items() if name.startswith("cpu")]
    fixed = bool(cores) and all(low == high for low, high in cores)
    reasons = []
    if before["governors"] is None and not cores:
        reasons.append("the clock cannot be read or fixed here (no frequency governor)")
    elif not fixed and before["governors"] != ["performance"]:
        reasons.append("the frequency governor is {}, not performance".format(", ".join(before["governors"] or ["?"])))
    if before["turbo"] and not fixed:
        reasons.append("turbo is on: the clock may rise and fall")
    for name, (low, high) in sorted(limits.items()):
        if not name.startswith("cpu") and low != high:
            reasons.append("clock {} may move between {}".format(name, _range((low, high))))
    return reasons


def _range(span: Optional[Tuple[float, float]]) -> str:
    return "unknown" if span is None else "{:.0f} and {:.0f} MHz".format(*span)
