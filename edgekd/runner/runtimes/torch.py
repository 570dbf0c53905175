"""PyTorch: a `torch.export` program, run eagerly, or compiled by `torch.compile` where the option `compile` says so.

Source: the Python API of PyTorch 2.13 to 2.14.
Needs: torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional
from zipfile import BadZipFile

import numpy as np
import torch

from edgekd.runner.failure import STAGE_FAILED, VOID, RunnerError
from edgekd.runner.runtimes.base import Runtime, Setting

if TYPE_CHECKING:
    import numpy.typing as npt

CPU = "cpu"


class Engine(Runtime):
    """One program, batch as it was exported with."""

    def __init__(self) -> None:
        self.version = str(torch.__version__)
        self.provider = ""
        self.batch: Optional[int] = None
        self.settings = {"mode": "eager"}
        self._call: Callable[[torch.Tensor], Any]

    def load(self, path: Path, setting: Setting) -> None:
        """Read the program. `options`: `compile` (default: false)."""
        self.known(setting.options, ("compile",))
        if setting.provider != CPU:
            raise RunnerError(VOID, "runtime torch " + self.version, "runs on " + CPU, setting.provider)
        torch.set_num_threads(setting.threads)
        try:
            program = torch.export.load(str(path))
            network: Callable[..., Any] = program.module()
        except (RuntimeError, ValueError, KeyError, OSError, BadZipFile) as error:
            raise RunnerError(STAGE_FAILED, path.name, _line(error), "a program of torch.export") from error
        shape = next(iter(program.graph_signature.user_inputs))
        self.batch = _batch(program, str(shape))
        if setting.options.get("compile"):
            self.settings["mode"] = "compiled (torch.compile)"
            network = torch.compile(network)
        self._call = network
        self.provider = CPU

    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The logits."""
        try:
            with torch.inference_mode():
                return np.asarray(self._call(torch.from_numpy(batch)).numpy(), dtype=np.float32)
        except (RuntimeError, AssertionError) as error:  # a guard of the program is an assertion
            found = "input of shape {}".format(batch.shape)
            raise RunnerError(STAGE_FAILED, "inference", _line(error), found) from error

    def close(self) -> None:
        """Drop the program."""
        del self._call


def _batch(program: torch.export.ExportedProgram, name: str) -> Optional[int]:
    """Batch that a program's input is fixed to."""
    for node in program.graph.nodes:
        if node.name == name and "val" in node.meta:
            size = node.meta["val"].shape[0]
            return int(size) if isinstance(size, int) else None
    return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
