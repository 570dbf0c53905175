"""torch's process-wide switches, set for one fit and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from edgekd.fit import compiling
from edgekd.fit.request import Settings

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(settings: Settings) -> torch.autocast:
    """The precision of the networks' forward passes."""
    dtype = DTYPES.get(settings.precision)
    return torch.autocast(settings.device, dtype=dtype, enabled=dtype is not None)


@contextmanager
def own_torch(settings: Settings) -> Iterator[None]:
    """Thread count and global generator for this fit alone; compiled code is dropped after it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(threads)
        if settings.compile:
            compiling.forget()
