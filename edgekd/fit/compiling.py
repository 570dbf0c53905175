"""Whether a fit is compiled, and how."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgekd.errors import MissingTool
from edgekd.recipe import Fit

WORTH_IMAGES = 200_000  # images x epochs from which the ~40 s that compiling costs on 2 cores are won back


@dataclass(frozen=True)
class Decision:
    """Compile or not, and why, in words for the log."""

    on: bool
    reason: str


def decide(fit: Fit, images: int, device: str, *, allowed: bool = True) -> Decision:
    """What `fit.compile` means for a training set of that many images.

    Raises:
        MissingTool: `compile: true` and there is no compiler for the device.
    """
    if not allowed:
        return Decision(False, "eager: compiling is off in this run")
    if fit.compile is False:
        return Decision(False, "eager: fit.compile is false")
    seen = images * fit.epochs
    if fit.compile == "auto" and seen < WORTH_IMAGES:
        return Decision(False, f"eager: {seen:,} images to see, compiling pays from {WORTH_IMAGES:,}")
    missing = _missing_tool(device)
    if fit.compile == "auto":
        return Decision(not missing, f"eager: no {missing}" if missing else f"compiled: {seen:,} images to see")
    if missing:
        raise MissingTool("fit.compile", f"true, and there is no {missing}", hint="--set student.fit.compile=false")
    return Decision(True, "compiled: fit.compile is true")


def compiled_student(network: nn.Module) -> Callable[..., Any]:
    """A trained network for one batch shape: dynamic shapes would cost speed at every step."""
    return torch.compile(network, dynamic=False)


def compiled_teacher(network: nn.Module) -> Callable[..., Any]:
    """An inference-only network for one batch shape with its weights frozen into the code; call it under no_grad."""
    return torch.compile(network, dynamic=False, options={"freezing": True})


def forget() -> None:
    """Drop the compiled code of this process: torch keeps 8 versions of a function, then silently runs it eager."""
    import torch._dynamo  # a second to import, needed by compiled fits only

    torch._dynamo.reset()


def _missing_tool(device: str) -> str:
    """The tool that torch.compile lacks for a device; empty when it has all."""
    from torch._inductor import cpp_builder  # a second to import, needed only where compiling is thinkable
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.utils._triton import has_triton

    if device not in ("cpu", "cuda"):
        return f"compiler for {device}"
    if device == "cuda":
        if not has_triton():
            return "Triton"
        if not _c_compiler():
            return "C compiler"
    else:
        try:
            cpp_builder.get_cpp_compiler()
        except InvalidCxxCompiler:
            return "C++ compiler"
    return (
        "" if (Path(sysconfig.get_path("include")) / "Python.h").is_file() else "Python.h (Python's development files)"
    )


def _c_compiler() -> str | None:
    """The compiler with which Triton builds the launcher of every kernel, chosen as Triton does."""
    named = os.environ.get("CC")
    return shutil.which(named) if named is not None else shutil.which("gcc") or shutil.which("clang")
