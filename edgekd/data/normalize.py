"""Statistics that a network's input is normalised with: named ones, a data set's own, and measuring them.

Source: the protocols of RepDistiller, mdistiller and torchvision's ImageNet reference training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.data.base import Images
from edgekd.errors import RecipeError, nearest

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # (mean, std) a channel, of images in [0, 1]

NAMED: dict[str, Statistics] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "cinic10": ((0.4789, 0.4723, 0.4305), (0.2421, 0.2383, 0.2587)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
UNCHANGED: dict[str, tuple[float, float]] = {  # (mean, std) of every channel, for a network that normalises for itself
    "none": (0.0, 1.0),  # it takes values in [0, 1]
    "pixels": (0.0, 1 / 255),  # it takes values in [0, 255]
}
DECIMALS = 6  # more say nothing about a picture, and rounding keeps data.json readable
BLOCK = 4096  # images measured at a time


def resolve(name: str, data_json: Mapping[str, Any], where: str = "teacher.normalize") -> Statistics:
    """The statistics of a name; `dataset`: those that the data artifact holds.

    Raises:
        RecipeError: No such name, or statistics of another number of channels than the data has.
    """
    if name == "dataset":
        own = data_json["normalize"]
        return tuple(own["mean"]), tuple(own["std"])
    if name in UNCHANGED:
        mean, std = UNCHANGED[name]
        return (mean,) * data_json["channels"], (std,) * data_json["channels"]
    if name not in NAMED:
        raise RecipeError(
            where,
            f"unknown statistics {name!r}",
            "dataset, " + ", ".join([*NAMED, *UNCHANGED]),
            nearest(name, ["dataset", *NAMED, *UNCHANGED]),
        )
    if len(NAMED[name][0]) != data_json["channels"]:
        raise RecipeError(
            where, f"{name!r} is for {len(NAMED[name][0])} channels", f"{data_json['channels']}", "normalize: dataset"
        )
    return NAMED[name]


def measure(images: Images) -> Statistics:
    """Mean and standard deviation a channel of uint8 [N, H, W, C], in [0, 1].

    Counted level by level in integers, so that the result is exact and hangs on no order of summing.

    Raises:
        RecipeError: A channel is constant: nothing can be normalised with a deviation of 0.
    """
    counts = np.zeros((images.shape[3], 256), dtype=np.int64)
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK]
        for channel in range(len(counts)):
            counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    levels = np.arange(256)
    means, stds = [], []
    for count in counts:
        total, first, second = int(count.sum()), int(count @ levels), int(count @ levels**2)
        variance = (total * second - first * first) / total**2
        if variance == 0:
            raise RecipeError("data.use", "every training pixel of a channel has the same value", "real images")
        means.append(round(first / total / 255, DECIMALS))
        stds.append(round(variance**0.5 / 255, DECIMALS))
    return tuple(means), tuple(stds)


def apply(images: Images, mean: tuple[float, ...], std: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """uint8 [B, H, W, C] -> normalised float32 [B, C, H, W], contiguous: (x / 255 - mean) / std."""
    centred = images.astype(np.float32) / np.float32(255) - np.asarray(mean, dtype=np.float32)
    centred /= np.asarray(std, dtype=np.float32)
    return np.ascontiguousarray(centred.transpose(0, 3, 1, 2))
