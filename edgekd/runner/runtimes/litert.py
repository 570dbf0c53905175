"""LiteRT (TensorFlow Lite): .tflite files, by default with the XNNPACK delegate of the CPU.

Source: the Python API of ai-edge-litert 2.3, and of TensorFlow Lite's `Interpreter` before it, which is the same.
Needs: ai-edge-litert; where it is not, tflite-runtime or tensorflow.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple

import numpy as np

from edgekd.runner.failure import STAGE_FAILED, VOID, RunnerError
from edgekd.runner.runtimes.base import Runtime, Setting

if TYPE_CHECKING:
    import numpy.typing as npt

HOMES = (
    ("ai_edge_litert", "ai_edge_litert.interpreter"),
    ("tflite_runtime", "tflite_runtime.interpreter"),
    ("tensorflow", "tensorflow.lite.python.interpreter"),
)
# What it computes with: XNNPACK's kernels where they take the operator, its own fast ones, or the plain ones that define
# what an operator means. They differ by single steps of a scale.
KERNELS = {"xnnpack": "AUTO", "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "reference": "BUILTIN_REF"}


def _package() -> Tuple[Any, str]:
    """The interpreter's module and version, of the first package that is there.

    Raises:
        ImportError: None of them is.
    """
    for package, module in HOMES:
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != package:
                raise
            continue
        return found, package + " " + str(getattr(importlib.import_module(package), "__version__", "unknown"))
    raise ImportError("no LiteRT interpreter", name="ai-edge-litert")


_tflite, _version = _package()


class Engine(Runtime):
    """One interpreter, batch as in the file. Option `kernels`: `xnnpack` (the default), `builtin` or `reference`."""

    def __init__(self) -> None:
        self.version = _version
        self.provider = ""
        self.batch: Optional[int] = None
        self.settings: Dict[str, str] = {}

    def load(self, path: Path, setting: Setting) -> None:
        """Read the file and plan its memory."""
        self.known(setting.options, ("kernels",))
        if setting.provider != "cpu":
            raise RunnerError(VOID, "provider", repr(setting.provider), "cpu")
        kernels = setting.options.get("kernels", "xnnpack")
        if kernels not in KERNELS:
            raise RunnerError(2, "bundle.json: options: kernels", repr(kernels), "one of: " + ", ".join(KERNELS))
        resolver = getattr(_tflite.OpResolverType, KERNELS[kernels])
        try:
            self._interpreter = _tflite.Interpreter(
                model_path=str(path), num_threads=setting.threads, experimental_op_resolver_type=resolver
            )
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise RunnerError(STAGE_FAILED, path.name, str(error)[:400], "a model that LiteRT can load") from error
        self._given, self._told = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        self.batch = int(self._given["shape"][0])
        self.provider = setting.provider
        self.settings = {"kernels": kernels, "input": _form(self._given), "output": _form(self._told)}

    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """NHWC and the file's integers are made here, as a program on the device has to."""
        given = np.ascontiguousarray(batch.transpose(0, 2, 3, 1))
        try:
            self._interpreter.set_tensor(self._given["index"], _quantized(given, self._given))
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise RunnerError(STAGE_FAILED, "inference", str(error)[:400], "an answer") from error
        return _real(self._interpreter.get_tensor(self._told["index"]), self._told)

    def close(self) -> None:
        """Drop the interpreter."""
        self._interpreter = None


def _form(tensor: Dict[str, Any]) -> str:
    scale, zero = tensor["quantization"]
    name = np.dtype(tensor["dtype"]).name
    return "{} {}".format(name, list(map(int, tensor["shape"]))) + (
        " scale {:.8g} zero point {}".format(scale, zero) if scale else ""
    )


def _quantized(values: npt.NDArray[np.float32], tensor: Dict[str, Any]) -> npt.NDArray[Any]:
    """Values as the file's input: round half to even, as LiteRT's QUANTIZE does away from ties."""
    if not np.issubdtype(tensor["dtype"], np.integer):
        return values
    scale, zero = tensor["quantization"]
    limits = np.iinfo(tensor["dtype"])
    steps = np.rint(values * np.float32(1 / scale)) + zero
    return np.asarray(np.clip(steps, limits.min, limits.max), dtype=tensor["dtype"])


def _real(values: npt.NDArray[Any], tensor: Dict[str, Any]) -> npt.NDArray[np.float32]:
    """The file's output as float32 logits."""
    if not np.issubdtype(tensor["dtype"], np.integer):
        return np.array(values, dtype=np.float32)
    scale, zero = tensor["quantization"]
    return (values.astype(np.float32) - np.float32(zero)) * np.float32(scale)
