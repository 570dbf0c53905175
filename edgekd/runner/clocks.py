"""Power mode and clocks: what they are now, and between which limits they may move.

A clock whose lower limit is its upper one is locked. `jetson_clocks` and a fixed governor leave it so.

Source: the kernel's documentation of cpufreq and devfreq; NVIDIA, Jetson Linux Developer Guide, Platform Power and
Performance (nvpmodel, the devfreq folder of the GPU, the EMC clock in debugfs). Read from recorded trees: written, not run on
hardware.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from edgekd.runner.readings import number, text

MHZ = {"cpu": 1000.0, "devfreq": 1e6}  # cpufreq counts in kHz, devfreq in Hz
GPU = re.compile(r"gpu|gv11b|ga10b|gp10b|gb10b|mali|panfrost")  # folders of /sys/class/devfreq that are a GPU's
EMC = "sys/kernel/debug/bpmp/debug/clk/emc"  # readable for root alone on most boards
NVPMODEL = "usr/sbin/nvpmodel"
ASKED_SECONDS = 10

Range = Tuple[float, float]


def governors(root: Path) -> Optional[List[str]]:
    """The frequency governors in use, each once; None where the system does not tell."""
    found = {text(path) for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")}
    return sorted(name for name in found if name) or None


def limits_mhz(root: Path) -> Dict[str, Range]:
    """{clock: (lowest, highest) that is allowed now}: `cpu0` ..., the GPU's devfreq name, `emc`."""
    found: Dict[str, Range] = {}
    for folder in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq")):
        _limit(found, folder.parent.name, folder / "scaling_min_freq", folder / "scaling_max_freq", MHZ["cpu"])
    for folder in _gpus(root):
        _limit(found, folder.name, folder / "min_freq", folder / "max_freq", MHZ["devfreq"])
    rate, locked = number(root / EMC / "rate"), number(root / EMC / "mrq_rate_locked")
    if rate is not None and locked == 1:
        found["emc"] = (rate / 1e6, rate / 1e6)
    elif rate is not None:
        _limit(found, "emc", root / EMC / "min_rate", root / EMC / "max_rate", 1e6)
    return found


def now_mhz(root: Path) -> Dict[str, float]:
    """{clock: MHz now}, of the same clocks."""
    cores = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    places = {path.parent.parent.name: (path, MHZ["cpu"]) for path in cores}
    places.update({folder.name: (folder / "cur_freq", MHZ["devfreq"]) for folder in _gpus(root)})
    places["emc"] = (root / EMC / "rate", 1e6)
    read = {name: (number(path), unit) for name, (path, unit) in places.items()}
    return {name: value / unit for name, (value, unit) in read.items() if value is not None}


def core_mhz(root: Path) -> Optional[List[float]]:
    """MHz of each core, from cpufreq, else as /proc/cpuinfo has it."""
    found = [value for name, value in sorted(now_mhz(root).items()) if name.startswith("cpu")]
    lines = (text(root / "proc/cpuinfo") or "").splitlines()
    return found or [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")] or None


def turbo(root: Path) -> Optional[bool]:
    """Whether clocks above the nominal one are allowed, by either x86 driver."""
    cpu = root / "sys/devices/system/cpu"
    off, boost = number(cpu / "intel_pstate/no_turbo"), number(cpu / "cpufreq/boost")
    if off is not None:
        return off == 0
    return None if boost is None else boost == 1


def power_mode(root: Path, ask: bool = False) -> Optional[str]:
    """A Jetson's power mode, `1 15W`; None on a machine without nvpmodel.

    Args:
        root: Of the files.
        ask: Ask the program `nvpmodel` of this very machine first; else, or where it does not answer, the two files that it
            keeps: its choice in /var/lib and the names in /etc.
    """
    said = _nvpmodel(root) if ask else ""
    found = said_mode(said)
    number_of_it = mode_number(root)
    if found is None and number_of_it is not None:
        names = mode_names(text(root / "etc/nvpmodel.conf") or "")
        found = "{} {}".format(number_of_it, names.get(number_of_it, "")).strip()
    return found


def mode_number(root: Path) -> Optional[str]:
    """The number of a Jetson's power mode as nvpmodel keeps it in a file; None elsewhere."""
    status = re.search(r"pmode:0*(\d+)", text(root / "var/lib/nvpmodel/status") or "")
    return None if status is None else status.group(1)


def said_mode(said: str) -> Optional[str]:
    """`1 15W` of what `nvpmodel -q` prints: `NV Power Mode: 15W`, then the mode's number on a line of its own."""
    name = re.search(r"NV Power Mode:\s*(\S+)", said)
    identity = re.search(r"^\s*(\d+)\s*$", said, re.MULTILINE)
    if name is None:
        return None
    return "{} {}".format(identity.group(1), name.group(1)) if identity is not None else name.group(1)


def mode_names(configuration: str) -> Dict[str, str]:
    """{number: name} of the `< POWER_MODEL ID=0 NAME=15W >` lines of nvpmodel.conf."""
    return dict(re.findall(r"^\s*<\s*POWER_MODEL\s+ID=0*(\d+)\s+NAME=(\S+?)\s*>", configuration, re.MULTILINE))


def _nvpmodel(root: Path) -> str:
    program = root / NVPMODEL
    if root != Path("/") or not program.is_file():
        return ""  # a recorded machine's program is not run
    try:
        done = subprocess.run(
            [str(program), "-q"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=ASKED_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""  # it wants root on some releases: its files are read instead
    return done.stdout.decode("utf-8", "replace")


def _gpus(root: Path) -> List[Path]:
    return [folder for folder in sorted((root / "sys/class/devfreq").glob("*")) if GPU.search(folder.name)]


def _limit(found: Dict[str, Range], name: str, low: Path, high: Path, unit: float) -> None:
    least, most = number(low), number(high)
    if least is not None and most is not None:
        found[name] = (least / unit, most / unit)
