"""`edgekd doctor`: this machine as edgekd sees it, and the line that mends what is missing."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from edgekd import trtcheck
from edgekd.commands import current, engine_build, output
from edgekd.commands.chain import data_roots
from edgekd.errors import MissingTool
from edgekd.fit.resolve import resolve
from edgekd.recipe import Fit
from edgekd.runner.state import processor, usable_cores

CORE = (
    "torch",
    "torchvision",
    "onnx",
    "onnxruntime",
    "onnxsim",
    "onnxscript",
    "pyarrow",
    "scikit-learn",
    "safetensors",
)
CPUINFO = Path("/proc/cpuinfo")
EXACT_INT8 = {  # what it is called here -> what Linux calls it
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "dot product": {"asimddp"},
}
# The golden batch and the whole test split are answered on this processor there; another one's answers prove nothing.
SATURATES = "measure accuracy on this processor: edgekd bench --format onnx-int8"
LOW_DISK = 2 * 1024**3  # bytes; one CIFAR-10 workspace with a few runs takes about 0.5 GiB


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and how to mend it."""

    what: str
    state: Literal["ok", "warn", "missing"]
    found: str
    fix: str = ""


def doctor(workspace: Path, roots: list[Path], json: bool) -> None:
    """Print the findings.

    Raises:
        MissingTool: Something that the chain cannot do without is missing.
    """
    findings = [*_packages(), *_processor(), *_training(), *_data(data_roots(roots)), _workspace(workspace)]
    error = _missing([f for f in findings if f.state == "missing"])
    if json:
        facts = {"usable": error is None, "findings": [vars(f) for f in findings]}
        if error is not None:
            output.fail(error, facts)
        output.print_json(facts)
        return
    output.print_table(("what", "", "found", "to mend"), [(f.what, f.state, f.found, f.fix) for f in findings])
    if error is not None:
        raise error
    output.next_command(f"edgekd run --recipe quickstart{current.option(workspace)}")


def _missing(findings: list[Finding]) -> MissingTool | None:
    if not findings:
        return None
    return MissingTool("doctor", ", ".join(f.what for f in findings), "all of them", findings[0].fix)


def _packages() -> Iterator[Finding]:
    yield Finding("python", "ok", platform.python_version())
    for name in CORE:
        try:
            yield Finding(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, "missing", "not installed", f"pip install {name}")
    if trtcheck.available():
        yield Finding(trtcheck.TOOL, "ok", "installed: exports of family trt are parsed and built by it")
    else:
        yield Finding(trtcheck.TOOL, "ok", "not installed: exports of family trt are linted alone", trtcheck.INSTALL)
    lacking = "; ".join(text.partition(" (")[0] for text in engine_build.lacking())
    engine = f"engines are built on the device ({lacking})" if lacking else "engines can be built here"
    yield Finding("TensorRT", "ok", f"{engine}; written, not run on hardware")


def _processor() -> Iterator[Finding]:
    yield Finding("processor", "ok", f"{processor()}, {usable_cores()} cores usable")
    yield int8_instructions(CPUINFO.read_text(encoding="utf-8", errors="replace") if CPUINFO.exists() else "")
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor.exists():
        mode = governor.read_text(encoding="ascii").strip()
        state: Literal["ok", "warn"] = "ok" if mode == "performance" else "warn"
        yield Finding(
            "clock governor", state, mode, "" if state == "ok" else "sudo cpupower frequency-set -g performance"
        )
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    busy = load > 0.5 * (usable_cores() or 1)
    yield Finding(
        "load",
        "warn" if busy else "ok",
        f"{load:.2f} (1 minute)",
        "wait for other work before measuring" if busy else "",
    )


def int8_instructions(cpuinfo: str) -> Finding:
    """What the processor has for scheme u8s8, whose products of uint8 and int8 need sums of 32 bits.

    x86 without VNNI adds two such products in 16 bits, which saturate at 32,767: 255 * 127 * 2 is 64,770.

    Args:
        cpuinfo: Text of /proc/cpuinfo; empty where there is none.
    """
    lines = [line.partition(":") for line in cpuinfo.splitlines()]
    words = {word for key, _, value in lines if key.strip() in ("flags", "Features") for word in value.split()}
    exact = [name for name, flags in EXACT_INT8.items() if words & flags]
    if exact:
        return Finding("int8 instructions", "ok", ", ".join(exact))
    if words & {"sse2", "avx2"}:
        found = "no VNNI: sums of u8s8 may saturate in 16 bits, and int8 may be slower than fp32"
        return Finding("int8 instructions", "warn", found, SATURATES)
    if "asimd" in words:
        return Finding("int8 instructions", "ok", "no dot product: exact, and slower")
    return Finding("int8 instructions", "ok", f"unknown: nothing in {CPUINFO} says", SATURATES)


def _training() -> Iterator[Finding]:
    resolved = resolve(Fit())  # type: ignore[call-arg]
    yield Finding("training device", "ok", f"{resolved.device}, {resolved.precision}")
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is not None:
        yield Finding("C++ compiler", "ok", compiler)
    else:
        yield Finding(
            "C++ compiler", "warn", "none: training runs uncompiled, about half as fast", "apt-get install g++"
        )


def _data(roots: tuple[Path, ...]) -> Iterator[Finding]:
    if not roots:
        yield Finding(
            "data roots", "warn", "none: only the embedded digits", "export EDGEKD_DATA=FOLDER, or --data-root FOLDER"
        )
    for root in roots:
        there = root.is_dir()
        yield Finding(
            f"data root {root}",
            "ok" if there else "warn",
            "found" if there else "no such folder",
            "" if there else "mend EDGEKD_DATA",
        )


def _workspace(workspace: Path) -> Finding:
    place = workspace.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK) or not place.is_dir():
        return Finding("workspace", "missing", f"{workspace} cannot be written", "choose another with --workspace")
    state: Literal["ok", "warn"] = "ok" if free > LOW_DISK else "warn"
    return Finding(
        "workspace",
        state,
        f"{workspace}, {output.size(free)} free",
        "" if state == "ok" else "edgekd artifacts gc --yes",
    )
