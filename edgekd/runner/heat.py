"""Temperatures, and whether the machine slows itself down: heat, supply, power limit.

Source: the kernel's thermal sysfs interface; NVIDIA, Jetson Linux Developer Guide (throttle alerts are cooling devices,
over-current events are counted in the hwmon folder `soctherm_oc`); NVML's clock event reasons. Read from recorded trees: written,
not run on hardware.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from edgekd.runner.readings import number, text

if TYPE_CHECKING:
    from pathlib import Path

# Cooling devices that take speed away. A fan takes none; a screen or a radio is none of ours.
SLOWING = ("cpufreq", "thermal-cpufreq", "devfreq", "thermal-devfreq", "processor", "-throttle-alert")
ALERT = "-throttle-alert"  # a Jetson's: above 0 while the chip is being slowed
CAP = "power cap"
NVML_REASONS = {  # bits of NVML's clock event reasons that take speed away
    0x04: CAP,
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}


def temperatures(root: Path) -> Optional[Dict[str, float]]:
    """{zone: degrees Celsius}."""
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        value = number(zone / "temp")
        if value is not None:
            found[text(zone / "type") or zone.name] = value / 1000
    return found or None


def throttle_count(root: Path) -> Optional[int]:
    """Times that the cores of an x86 processor were slowed since boot."""
    paths = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    counts = [number(path) for path in paths]
    return sum(value for value in counts if value is not None) if counts else None


def cooling(root: Path) -> Dict[str, int]:
    """{cooling device that takes speed away: its state}; 0 takes none."""
    found: Dict[str, int] = {}
    for folder in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        kind, state = text(folder / "type") or "", number(folder / "cur_state")
        if state is not None and any(word in kind.lower() for word in SLOWING):
            found[kind] = max(state, found.get(kind, 0))  # one a core on x86, all of one name
    return found


def overcurrent(root: Path) -> Dict[str, int]:
    """{event: times since boot} of a Jetson's supply alarms that slow the chip (`oc1` under-voltage, `oc2` average, `oc3` peak)."""
    found = {}
    for path in sorted((root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt")):
        name, value = path.name.split("_")[0], number(path)
        if value is not None and number(path.with_name(name + "_throt_en")) != 0:
            found[name] = value
    return found


def nvidia(root: Path) -> Optional[Dict[str, Any]]:
    """A desktop GPU's driver, clocks, temperature and reasons to be slow, through nvidia-ml-py; None without such a GPU."""
    if not (root / "proc/driver/nvidia/version").is_file():
        return None
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return {"missing": "nvidia-ml-py: pip install nvidia-ml-py"}
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByIndex(0)
        bits = int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        return {
            "gpu": _words(nvml.nvmlDeviceGetName(handle)),
            "driver": _words(nvml.nvmlSystemGetDriverVersion()),
            "mhz": int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            "temperature_c": int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            "slowed": [words for bit, words in sorted(NVML_REASONS.items()) if bits & bit],
        }
    except nvml.NVMLError as error:
        return {"missing": "NVML: {}".format(error)}


def slowed(before: Dict[str, Any], later: List[Dict[str, Any]]) -> List[str]:
    """What took speed away between a first look and the later ones, in words.

    Args:
        before: A snapshot or look: `throttle_count`, `cooling`, `overcurrent`, `nvidia`, where known.
        later: The looks after it.
    """
    found: List[str] = []
    for look in later:
        if (look.get("throttle_count") or 0) > (before.get("throttle_count") or 0):
            found.append("the processor throttled: its throttle counter rose")
        for name, state in (look.get("cooling") or {}).items():
            least = 0 if name.endswith(ALERT) else (before.get("cooling") or {}).get(name, 0)
            if state > least:
                found.append("the machine throttled: {} is at {}, not {}".format(name, state, least))
        for name, count in (look.get("overcurrent") or {}).items():
            if count > (before.get("overcurrent") or {}).get(name, 0):
                found.append("the machine throttled: its supply alarm {} went off".format(name))
        found += ["the GPU throttled: " + words for words in _gpu(look) if words != CAP or CAP not in _gpu(before)]
    return list(dict.fromkeys(found))


def held_down(before: Dict[str, Any]) -> List[str]:
    """What held the clock down from the start: a steady machine, but not its full speed. Of many notebooks' GPUs so is the cap."""
    states: List[Tuple[str, int]] = sorted((before.get("cooling") or {}).items())
    capped = ["the GPU is held down by its power cap"] if CAP in _gpu(before) else []
    return capped + [
        "{} holds the clock down (state {})".format(name, state)
        for name, state in states
        if state > 0 and not name.endswith(ALERT)
    ]


def _gpu(look: Dict[str, Any]) -> List[str]:
    return list((look.get("nvidia") or {}).get("slowed", ()))


def _words(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
