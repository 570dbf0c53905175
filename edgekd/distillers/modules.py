"""Modules with torch's own initialisation, drawn from a generator and not from the global one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from edgekd.models.initialise import drawing

Module = TypeVar("Module", bound=nn.Module)


def made(build: Callable[[], Module], generator: torch.Generator) -> Module:
    """What `build` gives, its weights drawn from the generator; the global one is left as it was."""
    with drawing(generator):
        return build()
