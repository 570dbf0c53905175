"""Which device and precision a fit runs on, decided without importing torch (a fully cached run never loads it)."""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edgekd.errors import MissingTool
from edgekd.recipe import Fit

CAPABILITY_MAJOR = 75  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR of the CUDA driver API
BF16_CAPABILITY = 8  # compute capability from which tensor cores take bfloat16 (Ampere)
DRIVERS = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}
CUDA_OF_TORCH = re.compile(r"^cuda\b[^=\n]*=\s*['\"](\d+)", re.MULTILINE)  # in torch/version.py: cuda: ... = '13.2'


class Driver(NamedTuple):
    """Highest CUDA major that an NVIDIA driver serves, and the major compute capability of GPU 0."""

    cuda: int
    capability: int


@dataclass(frozen=True)
class Resolved:
    """Device (`cpu`, `cuda`, `mps`) and precision (`fp32`, `bf16`, `fp16`) of a fit."""

    device: str
    precision: str


def resolve(fit: Fit) -> Resolved:
    """The device and precision that `auto` means on this machine; what is named is kept or refused, never replaced.

    `auto` is cuda where driver and torch fit together, else cpu. It is never mps: only torch itself knows
    whether it can use that, and asking means importing it; name mps to train on it.

    Raises:
        MissingTool: A named device is not usable here.
    """
    device, capability = fit.device, 0
    if device in ("auto", "cuda"):
        found = _cuda()
        if isinstance(found, int):
            device, capability = "cuda", found
        elif device == "auto":
            device = "cpu"
        else:
            raise MissingTool(
                "fit.device",
                f"cuda is named, and this machine has {found}",
                expected="an NVIDIA GPU, a driver that fits torch and a CUDA build of torch",
                hint="--set student.fit.device=cpu",
            )
    elif device == "mps" and not _has_mps():
        raise MissingTool(
            "fit.device", "mps is named, and this is no Apple-silicon machine", hint="--set student.fit.device=cpu"
        )
    precision = fit.precision
    if precision == "auto":
        precision = "bf16" if capability >= BF16_CAPABILITY else "fp32"
    return Resolved(device, precision)


def _has_mps() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"


def _cuda() -> int | str:
    """Major compute capability of GPU 0, or in words why torch cannot use it."""
    driver = _driver()
    if driver is None:
        return "no CUDA driver or GPU"
    built = _cuda_of_torch()
    if built is None:
        return "no CUDA build of torch"
    if driver.cuda < built:
        return f"a driver for CUDA {driver.cuda}, too old for torch, which is built for CUDA {built}"
    return driver.capability


def _cuda_of_torch() -> int | None:
    """CUDA major that torch is built for, read as text; None: a build without CUDA. Any driver of that major serves it."""
    spec = importlib.util.find_spec("torch")  # finds the package without running it
    folders = spec.submodule_search_locations if spec is not None and spec.submodule_search_locations else []
    for path in (Path(folder) / "version.py" for folder in folders):
        found = CUDA_OF_TORCH.search(path.read_text(encoding="utf-8")) if path.is_file() else None
        if found is not None:
            return int(found[1])
    return None


def _driver() -> Driver | None:
    name = DRIVERS.get(sys.platform)
    if name is None:
        return None
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return None
    count, major, version = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value < 1:
        return None
    if driver.cuDeviceGetAttribute(ctypes.byref(major), CAPABILITY_MAJOR, 0) != 0:
        return None
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return Driver(version.value // 1000, major.value)  # 13020 is CUDA 13.2
