"""Which device and precision a fit runs on, decided without importing torch (a fully cached run never loads it)."""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from edgekd.errors import MissingTool
from edgekd.recipe import Fit

CAPABILITY_MAJOR = 75  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR of the CUDA driver API
BF16_CAPABILITY = 8  # compute capability from which tensor cores take bfloat16 (Ampere)
DRIVERS = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}
CUDA_LIBRARIES = ("libtorch_cuda.so", "torch_cuda.dll")


@dataclass(frozen=True)
class Resolved:
    """Device (`cpu`, `cuda`, `mps`) and precision (`fp32`, `bf16`, `fp16`) of a fit."""

    device: str
    precision: str


def resolve(fit: Fit) -> Resolved:
    """The device and precision that `auto` means on this machine; what is named is kept or refused, never replaced.

    Raises:
        MissingTool: A named device is not usable here.
    """
    capability = _cuda_capability() if fit.device in ("auto", "cuda") else None
    device = fit.device
    if device == "auto":
        device = "cuda" if capability is not None else "mps" if _has_mps() else "cpu"
    elif device == "cuda" and capability is None:
        raise MissingTool(
            "fit.device",
            "cuda is named, and this machine has "
            + ("no CUDA build of torch" if _has_driver() else "no CUDA driver or GPU"),
            expected="an NVIDIA GPU, its driver and a CUDA build of torch",
            hint="--set student.fit.device=cpu",
        )
    elif device == "mps" and not _has_mps():
        raise MissingTool(
            "fit.device", "mps is named, and this is no Apple-silicon machine", hint="--set student.fit.device=cpu"
        )
    precision = fit.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" and (capability or 0) >= BF16_CAPABILITY else "fp32"
    return Resolved(device, precision)


def _has_mps() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"


def _has_driver() -> bool:
    return _driver_capability() is not None


def _cuda_capability() -> int | None:
    """Major compute capability of GPU 0 if torch could use it: both a driver that answers and torch's CUDA library."""
    return _driver_capability() if _torch_has_cuda() else None


def _torch_has_cuda() -> bool:
    spec = importlib.util.find_spec("torch")  # finds the package without running it
    folders = spec.submodule_search_locations if spec is not None and spec.submodule_search_locations else []
    return any((Path(folder) / "lib" / library).exists() for folder in folders for library in CUDA_LIBRARIES)


def _driver_capability() -> int | None:
    name = DRIVERS.get(sys.platform)
    if name is None:
        return None
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return None
    count, major = ctypes.c_int(0), ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value < 1:
        return None
    if driver.cuDeviceGetAttribute(ctypes.byref(major), CAPABILITY_MAJOR, 0) != 0:
        return None
    return major.value
