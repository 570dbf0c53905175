"""Independent random streams from the recipe's one seed."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *words: str | int) -> int:
    """A 63-bit seed for one named stream; the same words give the same stream on every machine."""
    text = "/".join(str(word) for word in (seed, *words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *words: str | int) -> torch.Generator:
    """A CPU generator at the start of one named stream."""
    made = torch.Generator(device="cpu")
    made.manual_seed(derive(seed, *words))
    return made
