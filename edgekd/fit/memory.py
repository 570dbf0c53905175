"""Out of memory in a fit as a failed stage: torch has one exception for devices and only a text for the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from edgekd.errors import StageFailed
from edgekd.fit.request import Settings

# What torch's RuntimeError says: the CPU allocator (Linux; Windows), a driver, cuBLAS and cuDNN.
SAID = ("DefaultCPUAllocator", "out of memory", "STATUS_ALLOC_FAILED")
SHOWN = 160  # characters of torch's message: its first sentence has the figures, the rest is advice on settings


@contextmanager
def memory_errors(settings: Settings, hint: str = "") -> Iterator[None]:
    """Turn running out of memory into an error with the setting to change; every other error goes through as it is.

    Raises:
        StageFailed: Memory of the device or of the machine ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        size = settings.fit.batch_size
        raise StageFailed(
            settings.where,
            f"out of memory on {settings.device} with batches of {size} ({str(error)[:SHOWN]})",
            "memory for the networks and one batch",
            hint or f"--set {settings.where}.fit.batch_size={max(size // 2, 1)}, or other programs closed",
        ) from error


def _out_of_memory(error: RuntimeError | MemoryError) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in SAID)
