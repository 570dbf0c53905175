"""The engine options of `tensorrt` and `trtexec`: `options` of bundle.json, or of a device's profile."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Dict, Optional

from edgekd.runner.failure import USAGE, VOID, RunnerError

PROVIDER = "TensorRT"
LEVELS = range(6)  # of the builder, since 8.6


@dataclass(frozen=True)
class Options:
    """How to build an engine, and how to run it.

    Attributes:
        dla_core: Deep-learning accelerator to build for, 0 or 1; None: the GPU.
        gpu_fallback: Layers that the accelerator cannot run may go to the GPU; they are named.
        workspace_mib: Most scratch memory of a layer in MiB, > 0; None: what the device has.
        optimization_level: 0 to 5, how long to search; None: TensorRT's own (3).
        max_batch: Largest batch that the engine takes, >= 1; it is tuned for batch 1.
        tf32: float32 layers may round their inputs to 10 bits, as TensorRT's own default is.
        cuda_graph: Record the launches of a batch size once and replay them.
        timing_cache: Keep what the builder measured of layers, for the next build on this device.
    """

    dla_core: Optional[int] = None
    gpu_fallback: bool = False
    workspace_mib: Optional[int] = None
    optimization_level: Optional[int] = None
    max_batch: int = 64
    tf32: bool = False
    cuda_graph: bool = False
    timing_cache: bool = True

    @property
    def build(self) -> Dict[str, str]:
        """Those that make another engine, as text."""
        running = ("cuda_graph", "timing_cache")
        return {f.name: str(getattr(self, f.name)) for f in fields(self) if f.name not in running}


def read(given: Dict[str, Any]) -> Options:
    """The options of a bundle.

    Raises:
        RunnerError: 2: unknown, ill-typed, or out of range.
    """
    known = {field.name: field for field in fields(Options)}
    for name, value in given.items():
        if name not in known:
            raise RunnerError(USAGE, "options", "unknown name {!r}".format(name), "one of: " + ", ".join(sorted(known)))
        default = known[name].default
        if default is None and value is None:
            continue
        right = isinstance(value, bool) if isinstance(default, bool) else _count(value, 0 if "_mib" not in name else 1)
        if not right:
            expected = "true or false" if isinstance(default, bool) else "a whole number"
            raise RunnerError(USAGE, "options: " + name, repr(value)[:80], expected)
    options = Options(**given)
    if options.optimization_level is not None and options.optimization_level not in LEVELS:
        raise RunnerError(USAGE, "options: optimization_level", str(options.optimization_level), "0 to 5")
    if options.max_batch < 1:
        raise RunnerError(USAGE, "options: max_batch", str(options.max_batch), "at least 1")
    if options.gpu_fallback and options.dla_core is None:
        raise RunnerError(USAGE, "options: gpu_fallback", "without dla_core", "a dla_core to fall back from")
    return options


def check_provider(provider: str) -> None:
    """Hold what was asked for against the only thing that these engines run on.

    Raises:
        RunnerError: 4: another one was asked for.
    """
    if provider != PROVIDER:
        raise RunnerError(VOID, "provider", "runs on " + PROVIDER, provider, "runtimes.tensorrt.provider: TensorRT")


def _count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
