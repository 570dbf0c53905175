"""OpenVINO: its IR (`model.xml` beside `model.bin`) or an ONNX file, on the plugin that is asked for and no other.

The provider is a device of OpenVINO: `CPU`, `GPU` or `NPU`. Run on the CPU plugin; GPU and NPU: written, not run on hardware.

Source: the Python API of OpenVINO 2026.4.
Needs: openvino.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import numpy as np

from edgekd.runner.failure import MISSING, STAGE_FAILED, VOID, RunnerError
from edgekd.runner.runtimes.base import Runtime, Setting

# `import openvino` reports the import to a counting service, in a thread that would run under a measurement. Without this
# package, which nothing else uses, it has no sender.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402

if TYPE_CHECKING:
    import numpy.typing as npt

PRECISIONS = {"CPU": "f32"}  # a processor with AMX would round to bf16 unasked; GPU and NPU compute in f16


class Engine(Runtime):
    """One compiled network of batch 1 and one request: OpenVINO is slower, and less even, with a free batch."""

    def __init__(self) -> None:
        self.version = str(openvino.__version__).partition("-")[0]
        self.provider = ""
        self.batch: Optional[int] = 1
        self.settings = {"num_streams": "1", "performance_hint": "LATENCY"}
        self._request: openvino.InferRequest

    def load(self, path: Path, setting: Setting) -> None:
        """Fix the batch, compile; the devices that the compiled network names must be the one asked for.

        `options`: `precision` (`f32`, `f16`, `bf16`), what floats are computed in; default: f32 on the CPU.
        """
        self.known(setting.options, ("precision",))
        core, device = openvino.Core(), setting.provider
        if not any(name.partition(".")[0] == device for name in core.available_devices):
            available = ", ".join(core.available_devices)
            hint = "install the driver of that device, or use --device with one of: " + available
            raise RunnerError(MISSING, "runtime openvino " + self.version, "no device " + device, device, hint)
        wanted = {"PERFORMANCE_HINT": "LATENCY"}
        if device == "CPU":
            wanted.update({"INFERENCE_NUM_THREADS": str(setting.threads), "NUM_STREAMS": "1"})
        precision = setting.options.get("precision", PRECISIONS.get(device))
        if precision is not None:
            wanted["INFERENCE_PRECISION_HINT"] = str(precision)
        try:
            model = core.read_model(str(path))
            first = model.inputs[0]
            shape = first.get_partial_shape()
            shape[0] = 1
            model.reshape({first: shape})
            compiled = core.compile_model(model, device, wanted)
            ran = [str(name) for name in compiled.get_property("EXECUTION_DEVICES")]
            self.settings["precision"] = _text(compiled.get_property("INFERENCE_PRECISION_HINT"))
            self._request = compiled.create_infer_request()
        except RuntimeError as error:
            raise RunnerError(STAGE_FAILED, path.name, _line(error), "a model that OpenVINO can compile") from error
        self.provider = ", ".join(ran)
        self.settings["execution_devices"] = self.provider
        if {name.partition(".")[0] for name in ran} != {device}:
            raise RunnerError(VOID, "runtime openvino " + self.version, "runs on " + self.provider, device)

    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The first output, image by image: the network is fixed to batch 1."""
        try:
            return np.concatenate([self._one(batch[i : i + 1]) for i in range(len(batch))])
        except RuntimeError as error:
            found = "input of shape {}".format(batch.shape)
            raise RunnerError(STAGE_FAILED, "inference", _line(error), found) from error

    def close(self) -> None:
        """Drop the request, and with it the network."""
        del self._request

    def _one(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        self._request.infer({0: image}, share_inputs=True)
        return np.array(self._request.get_output_tensor(0).data, dtype=np.float32)


def _text(value: object) -> str:
    return str(value).replace("<Type: '", "").replace("'>", "")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
