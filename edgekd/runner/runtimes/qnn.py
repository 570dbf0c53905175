"""Qualcomm's Hexagon processor (HTP) through ONNX Runtime's plug-in provider; the whole network on it, or an error.

The model is a Q/DQ file of batch 1, or the context that was compiled from one for a chip. On x86 the provider's own emulator of the
processor answers: right values, no latencies. On Snapdragon: written, not run on hardware.

Source: the Python API of onnxruntime-qnn 2.7 (Qualcomm) and ONNX Runtime 1.31.
Needs: onnxruntime, onnxruntime-qnn.
"""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Optional

import numpy as np
import onnxruntime as ort
import onnxruntime_qnn

from edgekd.runner.failure import ENGINE_MISMATCH, MISSING, STAGE_FAILED, VOID, RunnerError
from edgekd.runner.runtimes.base import Runtime, Setting
from edgekd.runner.runtimes.onnxruntime import ERRORS, ERRORS_ONLY

if TYPE_CHECKING:
    import numpy.typing as npt

PROVIDER = "QNNExecutionProvider"
X86 = ("x86_64", "AMD64")
EMULATED, BOARD = "emulated", "board"
OPTIONS = ("backend", "soc_model", "htp_arch")
ALONE, RECORD = "session.disable_cpu_ep_fallback", "session.record_ep_graph_assignment_info"
OTHER_CHIP = "QNN_CONTEXT_ERROR"  # what a context for another chip or a newer library is refused with


class Engine(Runtime):
    """One session with the provider alone."""

    def __init__(self) -> None:
        self.version = metadata.version("onnxruntime-qnn")
        self.provider = ""
        self.batch: Optional[int] = 1
        self.kind = EMULATED if platform.machine() in X86 else BOARD
        self.settings = {"onnxruntime": str(ort.__version__), "cpu_fallback": "disabled"}
        self._session: ort.InferenceSession

    def load(self, path: Path, setting: Setting) -> None:
        """Make the session; an operator that the provider does not take is named.

        `options`: `backend` (`htp`), and for a file that is not compiled yet `soc_model` and `htp_arch`, as Qualcomm numbers them.
        """
        self.known(setting.options, OPTIONS)
        if setting.provider != PROVIDER:
            raise RunnerError(VOID, "runtime qnn " + self.version, "has " + PROVIDER + " alone", setting.provider)
        given = {"backend_type": str(setting.options.get("backend", "htp"))}
        given.update({name: str(setting.options[name]) for name in OPTIONS[1:] if name in setting.options})
        self.settings.update(given)
        try:
            self._session = session(path, given, setting.threads, ALONE)
        except ERRORS as error:
            raise _refused(path, given, error) from error
        self.provider = str(self._session.get_providers()[0])
        if self.provider != PROVIDER:
            raise RunnerError(VOID, "runtime qnn " + self.version, "runs on " + self.provider, PROVIDER)
        first = self._session.get_inputs()[0]
        if first.shape[0] != 1:
            found = "batch {}".format(first.shape[0])
            raise RunnerError(STAGE_FAILED, path.name, found, "batch 1: the processor takes fixed shapes alone")
        self._input, self._output = str(first.name), str(self._session.get_outputs()[0].name)

    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The first output, image by image."""
        try:
            parts = [self._session.run([self._output], {self._input: batch[i : i + 1]})[0] for i in range(len(batch))]
        except ERRORS as error:
            raise RunnerError(
                STAGE_FAILED, "inference", _line(error), "input of shape {}".format(batch.shape)
            ) from error
        return np.concatenate(parts).astype(np.float32)

    def close(self) -> None:
        """Drop the session."""
        del self._session


def session(path: Path, given: Dict[str, str], threads: int, *entries: str, **more: str) -> ort.InferenceSession:
    """A session of a file on the provider; `entries` are switched on, `more` has dots as `_0_`."""
    devices = [device for device in _devices() if device.ep_name == PROVIDER]
    if not devices:
        raise RunnerError(MISSING, "runtime qnn", "the provider finds no device", "a Hexagon processor, or x86")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = ERRORS_ONLY
    for name in entries:
        options.add_session_config_entry(name, "1")
    for name, value in more.items():
        options.add_session_config_entry(name.replace("_0_", "."), value)
    options.add_provider_for_devices(devices[:1], given)
    return ort.InferenceSession(str(path), options, enable_fallback=0)  # it would try again on the CPU without a word


def elsewhere(path: Path, given: Dict[str, str]) -> List[str]:
    """The operators of a file that the provider does not take, as `Gemm node_linear`."""
    opened = session(path, given, 1, RECORD)
    parts = [part for part in opened.get_provider_graph_assignment_info() if part.ep_name != PROVIDER]
    return ["{} {}".format(node.op_type, node.name) for part in parts for node in part.get_nodes()]


def _devices() -> List[ort.OrtEpDevice]:
    if not any(device.ep_name == PROVIDER for device in ort.get_ep_devices()):
        ort.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    return list(ort.get_ep_devices())


def _refused(path: Path, given: Dict[str, str], error: Exception) -> RunnerError:
    """Why a session could not be made."""
    if ALONE in str(error) or "fallback to CPU EP" in str(error):
        left = elsewhere(path, given)
        found = "{} operator(s) would run on the CPU: {}".format(len(left), ", ".join(left[:8]))
        return RunnerError(VOID, path.name, found, "every operator on the Hexagon processor")
    if OTHER_CHIP in str(error):
        return RunnerError(ENGINE_MISMATCH, path.name, _line(error), "a context for this chip and this version of QNN")
    return RunnerError(STAGE_FAILED, path.name, _line(error), "a model that QNN can load")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
