"""Rows for calibrating a quantizer and for golden batches: un-augmented images of the train role, never of val or test."""

from __future__ import annotations

import numpy as np

from edgekd.data.roles import RoleArrays
from edgekd.data.stratify import Rows, stratified
from edgekd.errors import RecipeError

CALIBRATION_STREAM = 2  # draws from PCG64([seed, 2]), apart from val (seed) and the train subset (1)


def calibration_rows(roles: RoleArrays, images: int, seed: int, where: str = "quantize.images") -> Rows:
    """Rows of the source's train split to calibrate with, stratified by label: the same for every quantizer.

    Args:
        roles: The roles of the step.
        images: How many.
        seed: The recipe's seed.
        where: The recipe's key that asks for them.

    Returns:
        [images] int64, sorted.

    Raises:
        RecipeError: The train role has fewer images.
    """
    train = roles.rows["train"]
    if not 0 < images <= len(train):
        raise RecipeError(where, f"{images} images", f"1 to {len(train)}, the size of train")
    return _choose(roles, images, np.random.Generator(np.random.PCG64([seed, CALIBRATION_STREAM])))


def golden_rows(roles: RoleArrays, n: int) -> Rows:
    """Rows of the source's train split whose logits travel with a file, so that any device can prove it computes the same.

    They judge no accuracy, so they need not be unseen; test stays untouched. They hang on the train role alone:
    the same role gives the same rows. Where val is carved out of train, the role itself hangs on the recipe's seed.
    """
    return _choose(roles, min(n, len(roles.rows["train"])), np.random.Generator(np.random.PCG64(CALIBRATION_STREAM)))


def _choose(roles: RoleArrays, n: int, generator: np.random.Generator) -> Rows:
    labels = roles.images("train")
    everything = np.zeros(len(labels.images), dtype=np.int64)
    everything[labels.rows] = roles.labels("train")
    return stratified(everything, labels.rows, n, generator)
