"""What an inference engine looks like to the runner, and how one is found by name."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Optional, Type

from edgekd.runner.failure import MISSING, RunnerError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Runtime(ABC):
    """One engine with one loaded model. Each file of this folder but this one holds one, called `Engine`.

    Attributes:
        version: Of the engine.
        provider: What it runs on, as the engine itself says after loading.
        batch: Batch size that the model is fixed to; None: any.
        settings: What else was set and may change a figure.
    """

    version: str
    provider: str
    batch: Optional[int]
    settings: Dict[str, str]

    @abstractmethod
    def load(self, path: Path, provider: str, threads: int) -> None:
        """Read and prepare a model.

        Raises:
            RunnerError: 4: it would run on another provider; 7: the engine refuses the model.
        """

    @abstractmethod
    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits [B, C] of a batch [B, C, H, W].

        Raises:
            RunnerError: 7: the engine fails on it.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the model's memory back."""


def names() -> Dict[str, str]:
    """Module by engine name."""
    package = importlib.import_module("edgekd.runner.runtimes")
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    return {name: package.__name__ + "." + name for name in found if name != "base"}


def find(name: str) -> Type[Runtime]:
    """The engine's class, its framework imported.

    Raises:
        RunnerError: 5: no such engine in this runner, or its package is missing or broken here.
    """
    modules = names()
    if name not in modules:
        raise RunnerError(MISSING, "runtime", "unknown name {!r}".format(name), "one of: " + ", ".join(sorted(modules)))
    try:
        engine: Type[Runtime] = importlib.import_module(modules[name]).Engine
    except ImportError as error:
        raise RunnerError(
            MISSING, "runtime " + name, str(error), "a working installation", "pip install " + (error.name or name)
        ) from error
    return engine
