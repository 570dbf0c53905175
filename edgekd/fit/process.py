"""torch's process-wide switches, set for one fit and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from edgekd.fit import allocator, compiling
from edgekd.fit.request import Settings

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(settings: Settings) -> torch.autocast:
    """The precision of the networks' forward passes."""
    dtype = DTYPES.get(settings.precision)
    return torch.autocast(settings.device, dtype=dtype, enabled=dtype is not None)


@contextmanager
def own_threads(threads: int) -> Iterator[None]:
    """So many CPU threads for what is computed inside: float32 sums, and with them stored logits, hang on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def own_torch(settings: Settings) -> Iterator[None]:
    """Thread count and global generator for this fit alone; compiled code is dropped after it."""
    if settings.device == "cpu":
        allocator.keep_freed_memory()
    try:
        with own_threads(settings.threads), torch.random.fork_rng():
            yield
    finally:
        if settings.compile:
            compiling.forget()
