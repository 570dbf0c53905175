"""The machine before and after a measurement, and whether the figures may be used.

What cannot be read is None: a virtual machine shows no governor, a board no load of its neighbours. Linux's /proc and /sys are
read under `root`, so that a recorded machine can stand in for this one.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

VALID, UNLOCKED, VOID = "valid", "valid-unlocked", "void"
OTHER_LOAD = 0.1  # cores used by other programs, above which they are named: a tenth of a core moves p90, rarely p50
STEAL = 0.01  # share of a core that the hypervisor took
ROOT = Path("/")


def machine(root: Path = ROOT) -> Dict[str, Any]:
    """What does not change while a program runs: processor, cores, versions."""
    return {
        "cpu": processor(root),
        "board": _board(root) or None,
        "architecture": platform.machine(),
        "system": "{} {}".format(platform.system(), platform.release()),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def processor(root: Path = ROOT) -> str:
    """The processor's name; on ARM Linux, which has none, the board and what each kind of core is."""
    lines = [line.partition(":") for line in (_text(root / "proc/cpuinfo") or "").splitlines()]
    facts = [(name.strip(), value.strip()) for name, _, value in lines]
    makers = sorted({value for name, value in facts if name == "CPU implementer"})
    parts = sorted({value for name, value in facts if name == "CPU part"})
    if parts:
        board = _board(root) or next((value for name, value in facts if name in ("Model", "Hardware")), "ARM")
        return "{} (implementer {}, part {})".format(board, ", ".join(makers) or "?", ", ".join(parts))
    named = next((value for name, value in facts if name == "model name" and value), "")
    return named or _board(root) or _apple() or platform.processor() or platform.machine()


def usable_cores() -> Optional[int]:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def governors(root: Path = ROOT) -> Optional[List[str]]:
    """The frequency governors in use, each once; None where the system does not tell."""
    found = {_text(path) for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")}
    return sorted(name for name in found if name) or None


def snapshot(root: Path = ROOT) -> Dict[str, Any]:
    """What may change: clocks, load, memory, temperature, and the counters from which other load is told."""
    cpu = root / "sys/devices/system/cpu"
    clocks = [_number(path) for path in sorted(cpu.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))]
    counts = [_number(path) for path in cpu.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
    memory = _memory(root)
    return {
        "governors": governors(root),
        "frequency_mhz": [value / 1000 for value in clocks if value is not None] or _cpuinfo_mhz(root),
        "turbo": _turbo(cpu),
        "throttle_count": sum(value for value in counts if value is not None) if counts else None,
        "usable_cores": usable_cores(),
        "load_average": [float(word) for word in (_text(root / "proc/loadavg") or "").split()[:3]] or None,
        "memory_total_mib": memory.get("MemTotal"),
        "memory_available_mib": memory.get("MemAvailable"),
        "temperature_c": _temperatures(root),
        "clock_s": time.monotonic(),
        "own_cpu_s": time.process_time(),
        "all_cpu_s": _cpu_seconds(root),
    }


def other_load(before: Dict[str, Any], after: Dict[str, Any]) -> Tuple[Optional[float], Optional[float]]:
    """Cores that other programs used, and cores that the hypervisor took, between two snapshots; None where not told."""
    if before["all_cpu_s"] is None or after["all_cpu_s"] is None:
        return None, None
    seconds = max(after["clock_s"] - before["clock_s"], 1e-9)
    own = after["own_cpu_s"] - before["own_cpu_s"]
    busy, stolen = (after["all_cpu_s"][name] - before["all_cpu_s"][name] for name in ("busy", "steal"))
    return max(0.0, (busy - own) / seconds), max(0.0, stolen / seconds)


def verdict(before: Dict[str, Any], after: Dict[str, Any], doubts: List[str]) -> Tuple[str, List[str]]:
    """Whether figures taken between two snapshots may be used, and what speaks against them.

    Args:
        before: Snapshot before warm-up.
        after: Snapshot after the last sample.
        doubts: What the samples themselves show.

    Returns:
        `void`: the machine changed its mode or throttled; `valid-unlocked`: usable, but the clocks were not fixed or
        others were at work; `valid`: neither. With the reasons.
    """
    void = []
    if (after["throttle_count"] or 0) > (before["throttle_count"] or 0):
        void.append("the processor throttled: its throttle counter rose")
    for name, what in (("governors", "the frequency governor"), ("usable_cores", "the number of usable cores")):
        if before[name] != after[name]:
            void.append("{} changed from {} to {}".format(what, before[name], after[name]))
    if void:
        return VOID, void
    reasons = list(doubts)
    if before["governors"] is None:
        reasons.append("the clock cannot be read or fixed here (no frequency governor)")
    elif before["governors"] != ["performance"]:
        reasons.append("the frequency governor is {}, not performance".format(", ".join(before["governors"])))
    if before["turbo"]:
        reasons.append("turbo is on: the clock may rise and fall")
    others, stolen = other_load(before, after)
    if others is not None and others > OTHER_LOAD:
        reasons.append("other programs used {:.2f} cores".format(others))
    if stolen is not None and stolen > STEAL:
        reasons.append("the hypervisor took {:.2f} cores".format(stolen))
    return (UNLOCKED, reasons) if reasons else (VALID, reasons)


def peak_memory_mib(root: Path = ROOT) -> float:
    """Peak resident memory of this process in MiB.

    VmHWM where there is one: on Linux `ru_maxrss` of a child starts at the peak of the parent that forked it.
    """
    for line in (_text(root / "proc/self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def _text(path: Path) -> Optional[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None  # a sensor that is not there, or that refuses to be read: not known


def _board(root: Path) -> str:
    return (_text(root / "proc/device-tree/model") or "").rstrip("\0")


def _apple() -> str:
    """`Apple M2`, which Python calls `arm`; empty elsewhere."""
    if platform.system() != "Darwin":
        return ""
    try:
        asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode().strip()
    except OSError:
        return ""  # a sandbox without sysctl: not known


def _number(path: Path) -> Optional[int]:
    text = _text(path) or ""
    return int(text) if text.lstrip("-").isdigit() else None


def _cpuinfo_mhz(root: Path) -> Optional[List[float]]:
    lines = (_text(root / "proc/cpuinfo") or "").splitlines()
    return [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")] or None


def _turbo(cpu: Path) -> Optional[bool]:
    off, boost = _number(cpu / "intel_pstate/no_turbo"), _number(cpu / "cpufreq/boost")
    if off is not None:
        return off == 0
    return None if boost is None else boost == 1


def _memory(root: Path) -> Dict[str, float]:
    lines = (line.split() for line in (_text(root / "proc/meminfo") or "").splitlines())
    return {words[0].rstrip(":"): int(words[1]) / 1024 for words in lines if len(words) >= 2}


def _temperatures(root: Path) -> Optional[Dict[str, float]]:
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        value = _number(zone / "temp")
        if value is not None:
            found[_text(zone / "type") or zone.name] = value / 1000
    return found or None


def _cpu_seconds(root: Path) -> Optional[Dict[str, float]]:
    """Seconds since boot over all cores: busy (user, nice, system, interrupts) and taken by the hypervisor."""
    words = (_text(root / "proc/stat") or "").split("\n")[0].split()
    if len(words) < 9 or words[0] != "cpu":
        return None
    user, nice, system, _, _, irq, soft, steal = (int(word) / os.sysconf("SC_CLK_TCK") for word in words[1:9])
    return {"busy": user + nice + system + irq + soft, "steal": steal}
