"""The vectors that two networks give their classifiers (RKD, PKT, CRD, VkD), and their directions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgekd.errors import RecipeError
from edgekd.taps import Outputs, Wanted

EPSILON = 1e-12  # greatest norm of a vector that has no direction
TAP = "pooled"


def both_pooled(student: Sequence[str], teacher: Sequence[str], method: str) -> tuple[Wanted, Wanted]:
    """The taps of the vectors, out of the names that student and teacher offer.

    Raises:
        RecipeError: A network offers none.
    """
    for names, network in ((student, "student"), (teacher, "teacher")):
        if TAP not in names:
            raise RecipeError(
                "distill.use",
                f"{method} compares what the classifiers are given, and the {network} has no such tap",
                "two networks of `edgekd models`",
                "distill.use=kd",
            )
    return [(TAP, "pooled")], [(TAP, "pooled")]


def pooled(outputs: Outputs) -> Tensor:
    """The vectors [B, C] of a batch."""
    return outputs.taps[f"{TAP}:pooled"]


def unit(vectors: Tensor) -> Tensor:
    """[..., C] of Euclidean norm 1. A vector of norm 0 stays 0, and no gradient is divided by its norm."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / norms.masked_fill(norms <= EPSILON, 1.0)
