"""What a batch is compared with: labels, or weighted and smoothed probabilities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.errors import RecipeError
from edgekd.recipe import Fit


def class_weights(labels: Tensor, classes: int, fit: Fit, where: str) -> Tensor | None:
    """Weight of each class's labels, float32 [classes]; None when all weigh the same.

    `balanced`: N / (classes * n_k) for a class with n_k of the N training images: every class then has the same part in the
    loss over the training images, and the mean weight of an image is 1.

    Raises:
        RecipeError: A class without training image.
    """
    if fit.class_weights is None:
        return None
    counts = torch.bincount(labels, minlength=classes)
    if not bool(counts.all()):
        found = f"no training image of class {int(counts.argmin())}"
        raise RecipeError(f"{where}.fit.class_weights", found, "images of every class in train", "more in data.train")
    return (len(labels) / (classes * counts.double())).float()


def targets(labels: Tensor, classes: int, smoothing: float, weights: Tensor | None) -> Tensor:
    """Labels [B] as they are; [B, classes] when smoothed (Szegedy et al. 2016, section 7) or weighted.

    Cross-entropy is linear in its target: a row of probabilities times the weight of its label is that image's loss times the
    weight, and the loss the mean over the batch.
    """
    if not smoothing and weights is None:
        return labels
    rows = F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes
    return rows if weights is None else rows * weights[labels][:, None]
