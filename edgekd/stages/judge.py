"""The images on which a quantizer's choices are decided: validation, else training images that nothing was calibrated on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgekd.data.normalize import Statistics
from edgekd.data.roles import RoleArrays
from edgekd.data.stratify import stratified
from edgekd.errors import RecipeError
from edgekd.params import Roles
from edgekd.quantizers.base import Judge
from edgekd.stages.base import RunContext

MOST_TRAIN = 2000  # training images in the place of a validation part
STREAM = 3  # draws from PCG64([seed, 3]), apart from val (seed), the train subset (1) and calibration (2)


def require_train(where: str, images: int, wanted: Roles, context: RunContext) -> int | None:
    """The number of training images as far as it is known before work, where that many can be calibrated on.

    Raises:
        RecipeError: They cannot.
    """
    if images < 1:
        raise RecipeError(where, str(images), ">= 1")
    train = wanted.train
    if train is None and context.train_images is not None:
        train = context.train_images - wanted.val
    if train is not None and images > train:  # before training, not after it
        raise RecipeError(where, f"{images} images", f"1 to {train}, the number of training images")
    return train


def judge(
    arrays: RoleArrays,
    calibrated: npt.NDArray[np.int64],
    norm: Statistics,
    *,
    seed: int,
    threads: int,
    most: int | None = None,
) -> Judge | None:
    """The judge of a step; None where neither a validation part nor a training image is left for one.

    Args:
        arrays: The roles of the step.
        calibrated: [n], rows of train that were calibrated on.
        norm: (mean, std) of the network's input.
        seed: The recipe's.
        threads: CPU threads.
        most: So many images at the most, stratified by label; None: all of validation, or `MOST_TRAIN` of train.
    """
    role = "val" if len(arrays.rows["val"]) else "train"
    rows = np.setdiff1d(arrays.rows[role], calibrated) if role == "train" else arrays.rows[role]
    most = MOST_TRAIN if most is None and role == "train" else most
    source = arrays.images(role)
    labels = np.zeros(len(source.images), dtype=np.int64)
    labels[source.rows] = arrays.labels(role)
    if most is not None and len(rows) > most:
        rows = stratified(labels, rows, most, np.random.Generator(np.random.PCG64([seed, STREAM])))
    if not len(rows):
        return None
    return Judge(source.images, rows, labels[rows], *norm, threads=threads, role=role)


def count(val: int | None, train: int | None, calibrated: int) -> int | None:
    """How many images `judge` will have; None: not known yet.

    Args:
        val: Images of validation; None: not known yet.
        train: Images of train; None: not known yet.
        calibrated: Training images that are calibrated on.
    """
    if val is None or (val == 0 and train is None):
        return None
    return val or min(MOST_TRAIN, max(0, (train or 0) - calibrated))


def refuse_none(images: int | None, train: int | None) -> None:
    """Refuse a choice that there is no image for.

    Raises:
        RecipeError: Nothing is held out, and all of train is calibrated on.
    """
    if images == 0:
        raise RecipeError(
            "quantize.use",
            f"a choice is to be made, nothing is held out, and all {train} training images are calibrated on",
            "images that decide it",
            "data.val > 0, or a smaller quantize.images",
        )
