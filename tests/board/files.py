"""What a Jetson Orin Nano shows of itself under /proc, /sys, /etc and /var, as files that a test may rewrite at any moment.

The tree is that of `tests/jetson.py`, made up from public documentation; added is what a running system must have.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from tests import jetson

CORES = 2  # as many as the tree has
SYSTEM = ("proc/loadavg", "proc/meminfo", "proc/stat")  # of the tree, left to the machine itself: they must move
BOOT = "proc/sys/kernel/random/boot_id"
FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"  # of QEMU's CPU
NVPMODEL = """#!/bin/sh
# Not NVIDIA's: the fake board's stand-in, which only answers `nvpmodel -q`.
read -r mode < /var/lib/nvpmodel/status
case "$mode" in
    pmode:0000*) printf 'NV Power Mode: 15W\\n0\\n' ;;
    pmode:0001*) printf 'NV Power Mode: 7W\\n1\\n' ;;
esac
"""


def lay(folder: Path, root: Path) -> None:
    """Write device.sh, its settings and the board's files into a folder, the root file system staying where it is."""
    shutil.copy(Path(__file__).with_name("device.sh"), folder / "device.sh")
    settings(folder, root)
    tree = {name: text.rstrip("\n") + "\n" for name, text in jetson.files().items() if name not in SYSTEM}
    # The engines' own look at the processor reads these; without them some abort under QEMU.
    tree |= {f"sys/devices/system/cpu/{name}": f"0-{CORES - 1}\n" for name in ("possible", "present", "online")}
    tree |= {
        "proc/cpuinfo": "\n".join(_processor(core) for core in range(CORES)),
        "proc/device-tree/model": jetson.files()["proc/device-tree/model"],
        "usr/sbin/nvpmodel": NVPMODEL,
    }
    jetson.write(folder / "files", tree)
    (folder / "files/usr/sbin/nvpmodel").chmod(0o755)
    for name in ("root", "tmp"):
        (folder / "files" / name).mkdir()
    new_boot(folder)


def settings(folder: Path, root: Path, site: str = "/opt/site") -> None:
    """Which root file system the next session gets, and where its Python finds NumPy and the engines."""
    (folder / "settings").write_text(f"ROOT='{root}'\nSITE='{site}'\n")


def new_boot(folder: Path) -> None:
    """Another boot_id: how a reboot shows."""
    jetson.write(folder / "files", {BOOT: f"{uuid.uuid4()}\n"})


def _processor(core: int) -> str:
    facts = {
        "processor": core, "BogoMIPS": "62.50", "Features": FEATURES,
        "CPU implementer": "0x41", "CPU architecture": 8, "CPU variant": "0x0", "CPU part": "0xd42", "CPU revision": 1,
    }  # fmt: skip
    return "".join(f"{name}\t: {value}\n" for name, value in facts.items())
