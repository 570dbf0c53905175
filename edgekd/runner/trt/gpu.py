"""Which GPU and driver this is, asked of the driver's own library (libcuda); no CUDA toolkit is needed.

Source: CUDA Driver API (NVIDIA): cuInit, cuDeviceGet, cuDeviceGetName, cuDeviceGetAttribute, cuDriverGetVersion.
Written, not run on hardware.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any, Dict, List

from edgekd.runner.failure import MISSING, RunnerError

LIBRARIES = ("libcuda.so.1", "libcuda.so")
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
ROOT = Path("/")
# What says which driver it is: a desktop's kernel module, a Jetson's board support package.
DRIVERS = (("proc/driver/nvidia/version", r"Kernel Module[^\d]*([\d.]+)"), ("etc/nv_tegra_release", r"(R\d+[^,]*, REVISION: [\d.]+)"))  # fmt: skip


def facts(root: Path = ROOT) -> Dict[str, str]:
    """`gpu`, `capability` and `driver` of the first GPU that CUDA shows. No serial number: a board's twin gives the same.

    Raises:
        RunnerError: 5: no driver, or no GPU.
    """
    cuda = _library()
    _must(cuda, cuda.cuInit(0), "cuInit")
    device, version = ctypes.c_int(), ctypes.c_int()
    _must(cuda, cuda.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
    name = ctypes.create_string_buffer(256)
    _must(cuda, cuda.cuDeviceGetName(name, len(name), device), "cuDeviceGetName")
    numbers = []
    for attribute in (MAJOR, MINOR):
        value = ctypes.c_int()
        _must(cuda, cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device), "cuDeviceGetAttribute")
        numbers.append(str(value.value))
    _must(cuda, cuda.cuDriverGetVersion(ctypes.byref(version)), "cuDriverGetVersion")
    return {
        "gpu": name.value.decode("utf-8", "replace"),
        "capability": ".".join(numbers),
        "driver": " ".join([*_named(root), "CUDA {}.{}".format(version.value // 1000, version.value % 1000 // 10)]),
    }


def _library() -> Any:
    tried = []
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            tried.append(str(error))
    raise RunnerError(MISSING, "NVIDIA driver", tried[0], "libcuda.so.1, which comes with the driver", "nvidia-smi")


def _must(cuda: Any, code: int, what: str) -> None:
    if code != 0:
        text = ctypes.c_char_p()
        known = cuda.cuGetErrorString(code, ctypes.byref(text)) == 0 and text.value is not None
        said = (text.value or b"").decode() if known else "no text"
        raise RunnerError(MISSING, "GPU", "{}: error {}: {}".format(what, code, said), "an NVIDIA GPU", "nvidia-smi")


def _named(root: Path) -> List[str]:
    """The driver's own version, where a file says it."""
    for place, pattern in DRIVERS:
        try:
            found = re.search(pattern, (root / place).read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue  # not that kind of machine
        if found:
            return [found.group(1)]
    return []
