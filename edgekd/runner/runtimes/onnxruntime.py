"""ONNX Runtime.

Source: the Python API of ONNX Runtime 1.24 to 1.31.
Needs: onnxruntime.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Tuple, Type

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as state

from edgekd.runner.failure import STAGE_FAILED, VOID, RunnerError
from edgekd.runner.runtimes.base import Runtime, Setting

if TYPE_CHECKING:
    import numpy.typing as npt

# The engine's errors derive from Exception alone and differ by version: all that this version has.
ERRORS: Tuple[Type[Exception], ...] = tuple(
    kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)
)
ERRORS_ONLY = 3  # log severity: its warnings would stand between the reader and the one JSON line on stderr


class Engine(Runtime):
    """One InferenceSession; all graph optimizations, threads that sleep between queries."""

    def __init__(self) -> None:
        self.version = str(ort.__version__)
        self.provider = ""
        self.batch: Optional[int] = None
        # Spinning threads win microseconds and lose milliseconds when another program holds a core.
        self.settings = {"graph_optimization": "all", "allow_spinning": "0", "execution_mode": "sequential"}
        self._session: ort.InferenceSession

    def load(self, path: Path, setting: Setting) -> None:
        """Make the session; the first provider that it reports must be the one asked for."""
        self.known(setting.options, ())
        options, provider = ort.SessionOptions(), setting.provider
        options.intra_op_num_threads = setting.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", self.settings["allow_spinning"])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it warns and falls back; below that is an error
                self._session = ort.InferenceSession(str(path), options, providers=[provider])
        except ERRORS as error:
            raise RunnerError(STAGE_FAILED, path.name, _line(error), "a model that ONNX Runtime can load") from error
        self.provider = str(self._session.get_providers()[0])
        if self.provider != provider:
            raise RunnerError(
                VOID,
                "runtime onnxruntime " + self.version,
                "runs on " + self.provider,
                provider,
                "available here: " + ", ".join(ort.get_available_providers()),
            )
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or not outputs:
            found = "{} inputs, {} outputs".format(len(inputs), len(outputs))
            raise RunnerError(STAGE_FAILED, path.name, found, "one input, and the logits as first output")
        first = inputs[0]
        self._input, self._output = str(first.name), str(outputs[0].name)
        self.batch = first.shape[0] if first.shape and isinstance(first.shape[0], int) else None

    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The first output."""
        try:
            return np.asarray(self._session.run([self._output], {self._input: batch})[0])
        except ERRORS as error:
            raise RunnerError(
                STAGE_FAILED, "inference", _line(error), "input of shape {}".format(batch.shape)
            ) from error

    def close(self) -> None:
        """Drop the session."""
        del self._session


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
