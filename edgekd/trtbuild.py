"""The program that gives an ONNX file to TensorRT-RTX: it parses, builds and prints what was said; the engine is thrown away.

Run as a process of its own, by file (`python -P trtbuild.py MODEL`): it imports nothing of edgekd, and its native library goes
with it. Neither a GPU nor a driver is needed: the chip to build for is named, not looked up.

Source: TensorRT-RTX Python API (NVIDIA), OnnxParser and Builder. Needs: tensorrt-rtx-cu13 (NVIDIA's licence).
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from typing import Any

CAPABILITY = "SM86"  # Ampere: the generation of Jetson Orin, whose own chip (SM87) TensorRT-RTX does not know
BATCHES = (1, 1, 16)  # least, tuned for, most
UNUSABLE = 5  # exit code: the package is there and cannot be loaded


def main(path: str) -> int:
    """Print one JSON object: version, capability, parsed, built, errors, warnings, layers, build_seconds, engine_bytes."""
    try:
        trt = import_module("tensorrt_rtx")
    except (ImportError, OSError) as error:
        print(json.dumps({"unusable": str(error)}))
        return UNUSABLE
    print(json.dumps(examine(trt, path)))
    return 0


def examine(trt: Any, path: str) -> dict[str, Any]:
    """Parse a file and build it for one chip."""
    log = logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    parsed = bool(parser.parse_from_file(path))
    start, engine = time.monotonic(), None
    shapes = [tuple(network.get_input(i).shape) for i in range(network.num_inputs)]
    if any(-1 in shape[1:] for shape in shapes):
        log.said["ERROR"].append(f"inputs {shapes}: only the first size may be free")
    elif parsed:
        engine = builder.build_serialized_network(network, configured(trt, builder, network))
    return {
        "version": trt.__version__,
        "capability": CAPABILITY,
        "parsed": parsed,
        "built": engine is not None,
        "errors": [parser.get_error(i).desc() for i in range(parser.num_errors)] + log.said["ERROR"],
        "warnings": log.said["WARNING"],
        "layers": network.num_layers,
        "build_seconds": round(time.monotonic() - start, 3),
        "engine_bytes": 0 if engine is None else engine.nbytes,
    }


def configured(trt: Any, builder: Any, network: Any) -> Any:
    """How to build: for one named chip, with one range for every input whose batch is free."""
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, CAPABILITY), 0)
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    free = [tensor for tensor in inputs if -1 in tuple(tensor.shape)]
    if free:
        profile = builder.create_optimization_profile()
        for tensor in free:
            image = tuple(tensor.shape)[1:]
            profile.set_shape(tensor.name, *((n, *image) for n in BATCHES))
        config.add_optimization_profile(profile)
    return config


def logger(trt: Any) -> Any:
    """A logger that keeps errors and warnings, each text once, in order."""

    class Log(trt.ILogger):  # type: ignore[misc]  # its base comes at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.said: dict[str, list[str]] = {"ERROR": [], "WARNING": []}

        def log(self, severity: Any, message: str) -> None:
            kept = self.said.get("ERROR" if severity.name == "INTERNAL_ERROR" else severity.name)
            if kept is not None and message not in kept:
                kept.append(message)

    return Log()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
