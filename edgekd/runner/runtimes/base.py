"""What an inference engine looks like to the runner, and how one is found by name."""

from __future__ import annotations

import importlib
import os
import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple, Type

from edgekd.runner.failure import MISSING, USAGE, RunnerError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Setting:
    """What an engine is asked for.

    Attributes:
        provider: What it must run on; another one is exit 4.
        threads: Of one inference, >= 1.
        options: The engine's own, by name; an unknown one is exit 2.
        cache: A folder that outlives the run, for what the engine builds on the device; it need not exist yet.
    """

    provider: str
    threads: int
    options: Dict[str, Any]
    cache: Path


class Runtime(ABC):
    """One engine with one loaded model. Each file of this folder but this one holds one, called `Engine`.

    Attributes:
        version: Of the engine.
        provider: What it runs on, as the engine itself says after loading.
        batch: Batch size that the model is fixed to; None: any.
        settings: What else was set and may change a figure.
        parts: Names of what `infer` consists of, where the engine can time it apart (`host_to_device`, `compute`, ...).
        part_ns: Nanoseconds of each of `parts` in the last `infer`.
        whole: A call costs a process of its own: it wants as many images at once as it takes.
        kind: `board`: the real thing; `simulator`, `emulated`, `estimated`: its times are no latencies.
    """

    version: str
    provider: str
    batch: Optional[int]
    settings: Dict[str, str]
    parts: Tuple[str, ...] = ()
    part_ns: List[int]
    whole: bool = False
    kind: str = "board"

    @abstractmethod
    def load(self, path: Path, setting: Setting) -> None:
        """Read and prepare a model.

        Raises:
            RunnerError: 2: an option it does not have; 4: it would run on another provider; 7: it refuses the model.
        """

    @staticmethod
    def known(options: Dict[str, Any], names: Tuple[str, ...]) -> None:
        """Refuse options that the engine does not have.

        Raises:
            RunnerError: 2.
        """
        for name in sorted(set(options) - set(names)):
            raise RunnerError(USAGE, "bundle.json: options", repr(name), "one of: " + (", ".join(names) or "none"))

    @abstractmethod
    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits [B, C] of a batch [B, C, H, W].

        Raises:
            RunnerError: 7: the engine fails on it.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the model's memory back."""

    def judged(self, accepted: bool) -> bool:
        """Learn what the golden images said of the loaded model; an engine that keeps what it builds notes it.

        Returns:
            Whether it has gone back to an earlier build, which is to be judged now.
        """
        return False

    def own_times(self, batch: npt.NDArray[np.float32], seconds: float, queries: int) -> Optional[List[List[int]]]:
        """Nanoseconds of each of `parts` in each query of the engine's own loop, as long as both bounds say.

        None: `infer` is timed from outside, as of every engine in this process.
        """
        return None


def cache_folder() -> Path:
    """Where engines keep what they build on this device: `edgekd` below the user's cache folder."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(named) if Path(named).is_absolute() else Path.home() / ".cache") / "edgekd"


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
