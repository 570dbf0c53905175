"""ExecuTorch: .pte files, lowered to XNNPACK for CPUs.

Source: the Python API of executorch 1.5 (`executorch.runtime`). Its threads are those of its own pool: the number of cores that
the process may use, so a thread count is kept by taking the other cores away from the process.
Needs: executorch, torch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Optional

import numpy as np
import torch
from executorch import version
from executorch.runtime import Runtime as Loader
from executorch.runtime import Verification

from edgekd.runner.failure import MISSING, STAGE_FAILED, VOID, RunnerError
from edgekd.runner.runtimes.base import Runtime, Setting

if TYPE_CHECKING:
    import numpy.typing as npt

XNNPACK = "XnnpackBackend"


class Engine(Runtime):
    """One method `forward`, batch 1."""

    def __init__(self) -> None:
        self.version = str(version.__version__)
        self.provider = ""
        self.batch: Optional[int] = None
        self.settings: Dict[str, str] = {}

    def load(self, path: Path, setting: Setting) -> None:
        """Read the program; XNNPACK must be in this build."""
        self.known(setting.options, ())
        if setting.provider != "cpu":
            raise RunnerError(VOID, "provider", repr(setting.provider), "cpu")
        runtime = Loader.get()
        if not runtime.backend_registry.is_available(XNNPACK):
            raise RunnerError(MISSING, "runtime executorch", "a build without XNNPACK", "a build with it")
        self.settings = {"backend": XNNPACK, "threads": _keep_cores(setting.threads)}
        torch.set_num_threads(1)
        try:
            self._program = runtime.load_program(path, verification=Verification.InternalConsistency)
            self._forward = self._program.load_method("forward")
        except RuntimeError as error:
            raise RunnerError(STAGE_FAILED, path.name, str(error)[:400], "a model that ExecuTorch can load") from error
        if self._forward is None:
            raise RunnerError(STAGE_FAILED, path.name, "has no method forward", "a model that edgekd exported")
        self.batch = int(self._forward.metadata.input_tensor_meta(0).sizes()[0])
        self.provider = setting.provider

    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """NCHW float32 in and out: a quantized program quantizes inside."""
        try:
            logits = self._forward.execute([torch.from_numpy(np.ascontiguousarray(batch))])[0]
        except RuntimeError as error:
            raise RunnerError(STAGE_FAILED, "inference", str(error)[:400], "an answer") from error
        return np.array(logits.numpy(), dtype=np.float32)

    def close(self) -> None:
        """Drop the program."""
        self._forward = self._program = None


def _keep_cores(threads: int) -> str:
    """Leave the process as many cores as it may have threads; what was done, in words."""
    if not hasattr(os, "sched_setaffinity"):
        return "as many as the system has cores"
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    return "{} by affinity".format(len(cores))
