"""Random numbers of a step, drawn where they are used."""

from __future__ import annotations

import torch


def generator_on(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """A generator of that device: the given one, or one that it seeds, which goes on from its state all the same."""
    if generator.device.type == device.type:
        return generator
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    return torch.Generator(device).manual_seed(seed)
