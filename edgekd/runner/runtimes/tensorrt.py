"""TensorRT: the engine is built on the device from the bundle's ONNX file, and kept there. Written, not run on hardware.

By its Python bindings (8.6, 10, 11); where they are missing, and this is said, by the program `trtexec`.

Source: TensorRT Python API (NVIDIA); `edgekd/runner/trt` is what it is made of.
Needs: tensorrt (Jetson: python3-libnvinfer; elsewhere: pip install tensorrt) or trtexec, and an NVIDIA driver.
"""

from __future__ import annotations

from importlib import import_module
from typing import Type

from edgekd.runner.failure import MISSING, RunnerError
from edgekd.runner.runtimes.base import Runtime
from edgekd.runner.trt.bindings import Bindings
from edgekd.runner.trt.cache import say
from edgekd.runner.trt.command import PLACES, find_program

INSTALL = "Jetson: sudo apt-get install python3-libnvinfer; elsewhere: pip install tensorrt"


def _engine() -> Type[Runtime]:
    """The bindings' engine, or trtexec's.

    Raises:
        RunnerError: 5: neither is here.
    """
    try:
        bindings = import_module("tensorrt")
    except ImportError as error:
        if find_program() is None:
            found = "no Python bindings ({}), and no trtexec on PATH or in {}".format(error, ", ".join(PLACES))
            raise RunnerError(MISSING, "runtime tensorrt", found, "either of them", INSTALL) from error
        from edgekd.runner.runtimes import trtexec

        say("no Python bindings ({}): trtexec takes their place".format(error))
        return trtexec.Engine
    return type("Engine", (Bindings,), {"trt": bindings, "__doc__": Bindings.__doc__})


Engine = _engine()
