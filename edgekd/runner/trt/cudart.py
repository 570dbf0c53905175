"""What inference needs of the CUDA runtime, through `ctypes`: memory, one stream, events, graphs. Written, not run on hardware.

Source: CUDA Runtime API 11.4 to 13 (NVIDIA). The names and the number of their arguments are the same in all of them.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import re
import sys
from ctypes import POINTER, c_char_p, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

from edgekd.runner.failure import MISSING, STAGE_FAILED, RunnerError

HANDLE = POINTER(c_void_p)
FUNCTIONS: Dict[str, Tuple[Any, ...]] = {
    "cudaMalloc": (HANDLE, c_size_t),
    "cudaFree": (c_void_p,),
    "cudaMallocHost": (HANDLE, c_size_t),
    "cudaFreeHost": (c_void_p,),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaStreamCreateWithFlags": (HANDLE, c_uint),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamDestroy": (c_void_p,),
    "cudaEventCreate": (HANDLE,),
    "cudaEventRecord": (c_void_p, c_void_p),
    "cudaEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cudaEventDestroy": (c_void_p,),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, HANDLE),
    "cudaGraphInstantiateWithFlags": (HANDLE, c_void_p, c_ulonglong),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphExecDestroy": (c_void_p,),
    "cudaRuntimeGetVersion": (POINTER(c_int),),
}
TO_DEVICE, TO_HOST = 1, 2  # cudaMemcpyKind
NON_BLOCKING, THREAD_LOCAL = 1, 1  # cudaStreamNonBlocking, cudaStreamCaptureModeThreadLocal
OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
VERSIONS = ("13", "12", "11.0")
FOLDERS = ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/aarch64-linux/lib", "/usr/lib/aarch64-linux-gnu")
MAPS = Path("/proc/self/maps")


class Cuda:
    """One loaded libcudart.

    Raises:
        RunnerError: 5: there is none.
    """

    def __init__(self) -> None:
        self._library, self.path = _load()
        for name, types in FUNCTIONS.items():
            getattr(self._library, name).argtypes = types
        self._library.cudaGetErrorString.restype = c_char_p
        version = c_int()
        self.call("cudaRuntimeGetVersion", ctypes.byref(version))
        self.version = "{}.{}".format(version.value // 1000, version.value % 1000 // 10)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of FUNCTIONS.

        Raises:
            RunnerError: 7: it answers with an error.
        """
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            text = (self._library.cudaGetErrorString(code) or b"no text").decode("ascii", "replace")
            hint = "close other programs, or a smaller option max_batch" if code == OUT_OF_MEMORY else "nvidia-smi"
            raise RunnerError(STAGE_FAILED, "CUDA: " + name, "error {}: {}".format(code, text), "no error", hint)

    def made(self, name: str, *arguments: Any) -> int:
        """The handle or address that a function of FUNCTIONS writes to its first argument."""
        handle = c_void_p()
        self.call(name, ctypes.byref(handle), *arguments)
        return int(handle.value or 0)

    def captured(self, stream: int) -> int:
        """The graph that a stream has recorded since `cudaStreamBeginCapture`."""
        graph = c_void_p()
        self.call("cudaStreamEndCapture", stream, ctypes.byref(graph))
        return int(graph.value or 0)

    def elapsed_ns(self, start: int, end: int) -> int:
        """Nanoseconds between two events that are over."""
        milliseconds = c_float()
        self.call("cudaEventElapsedTime", ctypes.byref(milliseconds), start, end)
        return int(milliseconds.value * 1e6)


def _load() -> Tuple[Any, str]:
    """The first libcudart that can be loaded: the one in this process, the linker's, those of usual folders and of wheels."""
    for name in _candidates():
        try:
            return ctypes.CDLL(name), name
        except OSError:
            continue  # not there, or of another processor
    raise RunnerError(
        MISSING,
        "CUDA runtime",
        "no libcudart.so",
        "the library of the CUDA toolkit",
        "Jetson: sudo apt-get install nvidia-jetpack; elsewhere: pip install nvidia-cuda-runtime",
    )


def _candidates() -> Iterator[str]:
    if MAPS.exists():
        yield from sorted(set(re.findall(r"\S*libcudart\.so\S*", MAPS.read_text(errors="replace"))))
    names = ["libcudart.so", *("libcudart.so." + version for version in VERSIONS)]
    yield from names
    found = ctypes.util.find_library("cudart")
    if found:
        yield found
    for folder in FOLDERS:
        yield from (str(Path(folder, name)) for name in names)
    for place in sys.path:  # the wheels of CUDA lie in the namespace package `nvidia`
        yield from sorted(map(str, Path(place or ".").glob("nvidia/cu*/lib/libcudart.so*")), reverse=True)
