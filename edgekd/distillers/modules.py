"""Modules with torch's own initialisation, drawn from a generator and not from the global one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def made(build: Callable[[], Module], generator: torch.Generator) -> Module:
    """What `build` gives, its weights drawn from the generator; the global one is left as it was."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
