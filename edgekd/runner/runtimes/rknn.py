"""Rockchip's NPU: a .rknn file through rknn-toolkit-lite2. Written, not run on hardware.

The provider is `NPU`. The library refuses a file for another chip itself, and has no way back to the CPU but for the operators
that the compiler put there: `edgekd export` names those.

Source: the Python API of rknn-toolkit-lite2 2.x (Rockchip).
Needs: rknn-toolkit-lite2 (module rknnlite) on the board, and librknnrt.so of the same version.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import numpy as np

from edgekd.runner.failure import ENGINE_MISMATCH, STAGE_FAILED, USAGE, VOID, RunnerError
from edgekd.runner.runtimes.base import Runtime, Setting

try:
    from rknnlite.api import RKNNLite
except ModuleNotFoundError as error:  # the package has another name than its module: this one is what to install
    if (error.name or "").partition(".")[0] != "rknnlite":
        raise
    raise ImportError("rknnlite is not installed", name="rknn-toolkit-lite2") from error

if TYPE_CHECKING:
    import numpy.typing as npt

PROVIDER = "NPU"
CORES = {  # RK3588 has three; others know `auto` alone
    "auto": "NPU_CORE_AUTO",
    "0": "NPU_CORE_0",
    "1": "NPU_CORE_1",
    "2": "NPU_CORE_2",
    "0-1": "NPU_CORE_0_1",
    "0-2": "NPU_CORE_0_1_2",
}


class Engine(Runtime):
    """One file on one set of NPU cores, which `options: {cores: ...}` names; default: one, chosen by the driver."""

    def __init__(self) -> None:
        self.version = metadata.version("rknn-toolkit-lite2")
        self.provider = ""
        self.batch: Optional[int] = 1
        self.settings = {"cores": "auto"}
        self._npu = RKNNLite()

    def load(self, path: Path, setting: Setting) -> None:
        """Load the file and take the cores; every return code is looked at."""
        self.known(setting.options, ("cores",))
        where = "runtime rknn " + self.version
        if setting.provider != PROVIDER:
            raise RunnerError(VOID, where, "has the NPU alone", setting.provider)
        cores = str(setting.options.get("cores", "auto"))
        if cores not in CORES:
            raise RunnerError(USAGE, "bundle.json: options: cores", repr(cores), "one of: " + ", ".join(CORES))
        code = self._npu.load_rknn(str(path))
        if code != 0:
            found = "load_rknn gave return code {}".format(code)
            raise RunnerError(
                ENGINE_MISMATCH, path.name, found, "a file of this version", "edgekd export --format rknn"
            )
        mask = {} if cores == "auto" else {"core_mask": getattr(RKNNLite, CORES[cores])}
        code = self._npu.init_runtime(**mask)
        if code != 0:
            found = "init_runtime gave return code {}".format(code)
            hint = "export for the chip of this board, and see that librknnrt.so is of version " + self.version
            raise RunnerError(ENGINE_MISMATCH, path.name, found, "a file for this chip and library", hint)
        self.provider, self.settings["cores"] = PROVIDER, cores

    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The first output, image by image; the library quantizes and lays the input out itself."""
        found = []
        for image in batch:
            answer = self._npu.inference(inputs=[image[None]], data_format=["nchw"])
            if answer is None:
                raise RunnerError(STAGE_FAILED, "inference", "the NPU gave no answer", "logits")
            found.append(np.asarray(answer[0], dtype=np.float32).reshape(-1))
        return np.stack(found)

    def close(self) -> None:
        """Give the NPU back."""
        self._npu.release()
