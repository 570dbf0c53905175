"""The machine before, during and after a measurement, and whether the figures may be used.

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
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

import numpy as np

from edgekd.runner import clocks, heat
from edgekd.runner.readings import board, memory_mib, text
from edgekd.runner.sampler import Sampler
from edgekd.runner.verdict import UNLOCKED, VALID, VOID, Load, load_of_steps, locked, other_load, verdict

__all__ = ["UNLOCKED", "VALID", "VOID", "Load", "counters", "emulated", "governors", "load_of_steps", "locked", "look"]
__all__ += ["machine", "other_load", "peak_memory_mib", "processor", "record", "snapshot", "usable_cores", "verdict"]
__all__ += ["watch"]

ROOT = Path("/")
MARK = "etc/edgekd-emulated"  # a file that an emulated device carries
CLOCKS = "sys/devices/system/clocksource/clocksource0/available_clocksource"
WATCHED_S = 1.0  # between two looks: each costs a few file reads, and one query in a thousand


def machine(root: Path = ROOT) -> Dict[str, Any]:
    """What does not change while a program runs: processor, cores, versions."""
    return {
        "cpu": processor(root),
        "board": board(root) or None,
        "architecture": platform.machine(),
        "system": "{} {}".format(platform.system(), platform.release()),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def processor(root: Path = ROOT) -> str:
    """The processor's name; on ARM Linux, which has none, the board and what each kind of core is."""
    lines = [line.partition(":") for line in (text(root / "proc/cpuinfo") or "").splitlines()]
    facts = [(name.strip(), value.strip()) for name, _, value in lines]
    makers = sorted({value for name, value in facts if name == "CPU implementer"})
    parts = sorted({value for name, value in facts if name == "CPU part"})
    if parts:
        known = board(root) or next((value for name, value in facts if name in ("Model", "Hardware")), "ARM")
        return "{} (implementer {}, part {})".format(known, ", ".join(makers) or "?", ", ".join(parts))
    named = next((value for name, value in facts if name == "model name" and value), "")
    return named or board(root) or _apple() or platform.processor() or platform.machine()


def usable_cores() -> Optional[int]:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def governors(root: Path = ROOT) -> Optional[List[str]]:
    """The frequency governors in use, each once; None where the system does not tell."""
    return clocks.governors(root)


def emulated(root: Path = ROOT) -> str:
    """What says that this machine is emulated, whose times are no latencies; empty: nothing does."""
    if (root / MARK).exists():
        return "/" + MARK
    if "kvm" in (text(root / CLOCKS) or ""):
        return ""  # QEMU's default processor on the real one: a virtual machine, whose times are its times
    return "/proc/cpuinfo names QEMU" if "qemu" in (text(root / "proc/cpuinfo") or "").lower() else ""


def look(root: Path = ROOT) -> Dict[str, Any]:
    """What may void a measurement while it runs: mode, clocks, throttling, temperature. Files alone; no program is started."""
    return {
        "clock_s": time.monotonic(),
        "governors": clocks.governors(root),
        "mode": clocks.mode_number(root),
        "limits_mhz": clocks.limits_mhz(root),
        "now_mhz": clocks.now_mhz(root),
        "throttle_count": heat.throttle_count(root),
        "cooling": heat.cooling(root),
        "overcurrent": heat.overcurrent(root),
        "temperature_c": heat.temperatures(root),
    }


def snapshot(root: Path = ROOT) -> Dict[str, Any]:
    """What may change: `look`, and load, memory, swap, and the counters from which other load is told."""
    memory = memory_mib(root)
    swap = (memory.get("SwapTotal"), memory.get("SwapFree"))
    return {
        **look(root),
        "power_mode": clocks.power_mode(root, ask=True),
        "frequency_mhz": clocks.core_mhz(root),
        "turbo": clocks.turbo(root),
        "nvidia": heat.nvidia(root),
        "emulated": emulated(root),
        "usable_cores": usable_cores(),
        "load_average": [float(word) for word in (text(root / "proc/loadavg") or "").split()[:3]] or None,
        "memory_total_mib": memory.get("MemTotal"),
        "memory_available_mib": memory.get("MemAvailable"),
        "swap_used_mib": None if swap[0] is None or swap[1] is None else swap[0] - swap[1],
        **counters(root),
    }


def counters(root: Path = ROOT) -> Dict[str, Any]:
    """The time, and what this process and all together have used of the processor: of two, `other_load` tells the rest."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)  # an engine that is a program of its own
    own = time.process_time() + children.ru_utime + children.ru_stime
    return {"clock_s": time.monotonic(), "own_cpu_s": own, "all_cpu_s": _cpu_seconds(root)}


@contextmanager
def watch(root: Path = ROOT, seconds: float = WATCHED_S) -> Iterator[List[Dict[str, Any]]]:
    """Look every so many seconds, from a thread, while the block runs; gives the list that the looks are put into."""
    with Sampler(lambda: look(root), seconds) as sampler:
        yield sampler.values


def record(before: Dict[str, Any], after: Dict[str, Any], during: Sequence[Dict[str, Any]] = ()) -> Dict[str, Any]:
    """`state` of result.json: the two snapshots whole, of the looks between them how far each value went."""
    others, stolen = other_load(before, after)
    return {
        "before": before,
        "after": after,
        "during": {
            "looks": len(during),
            "mhz": _spans([seen.get("now_mhz") or {} for seen in during]),
            "temperature_c": _spans([seen.get("temperature_c") or {} for seen in during]),
            "cooling": _spans([seen.get("cooling") or {} for seen in during]),
        },
        "clocks_locked": locked(before),
        "other_cores": others,
        "stolen_cores": stolen,
    }


def peak_memory_mib(root: Path = ROOT) -> float:
    """Peak resident memory of this process in MiB.

    VmHWM where there is one: on Linux `ru_maxrss` of a child starts at the peak of the parent that forked it.
    """
    for line in (text(root / "proc/self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def _spans(looks: Sequence[Dict[str, float]]) -> Dict[str, List[float]]:
    """{name: [least, most]} over the looks."""
    names = sorted({name for values in looks for name in values})
    seen = {name: [values[name] for values in looks if name in values] for name in names}
    return {name: [min(values), max(values)] for name, values in seen.items()}


def _apple() -> str:
    """`Apple M2`, which Python calls `arm`; empty elsewhere."""
    if platform.system() != "Darwin":
        return ""
    try:
        asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode().strip()
    except OSError:
        return ""  # a sandbox without sysctl: not known


def _cpu_seconds(root: Path) -> Optional[Dict[str, float]]:
    """Seconds since boot over all cores: busy (user, nice, system, interrupts) and taken by the hypervisor."""
    words = (text(root / "proc/stat") or "").split("\n")[0].split()
    if len(words) < 9 or words[0] != "cpu":
        return None
    user, nice, system, _, _, irq, soft, steal = (int(word) / os.sysconf("SC_CLK_TCK") for word in words[1:9])
    return {"busy": user + nice + system + irq + soft, "steal": steal}
