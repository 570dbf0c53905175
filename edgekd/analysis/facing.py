"""The two ends of a network: what a runtime is told to feed it, and what it is told that its answers mean.

A file says both inside (metadata) and beside it (`model.json`, `labels.txt`); what it says is carried out on real images and
held against what the network was trained with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.analysis.parity import Logits
from edgekd.data.normalize import NAMED
from edgekd.errors import IntegrityError
from edgekd.profiles import FP32_MAX_ERROR_TO_RANGE
from edgekd.runner.image import Normaliser

Pixels = npt.NDArray[np.uint8]
Input = npt.NDArray[np.float32]
FORMULAS = {"(pixel / 255 - mean) / std": 255.0, "(pixel - mean) / std": 1.0}
ORDERS = ("RGB", "BGR")
LAYOUT = "[batch, channels, height, width]"


@dataclass(frozen=True)
class Preprocessing:
    """From uint8 images [n, H, W, C] in RGB order to a network's input.

    Attributes:
        mean: Per channel of the input.
        std: Per channel of the input.
        order: Of the channels of the input, RGB or BGR.
        divisor: Of a pixel before the mean is taken off.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: str = "RGB"
    divisor: float = 255.0

    def __call__(self, images: Pixels) -> Input:
        """[n, C, H, W], by the arithmetic of the program on the device."""
        given = images[..., ::-1] if self.order == "BGR" and images.shape[-1] == 3 else images
        part = self.divisor / 255.0
        return Normaliser([mean * part for mean in self.mean], [std * part for std in self.std])(given)


def inside(metadata: Mapping[str, str], place: str) -> Preprocessing:
    """What a file's own metadata tell a runtime to do.

    Raises:
        IntegrityError: They do not say.
    """
    said = metadata.get("input", "")
    formula = next((f for f in FORMULAS if f in said), None)
    order = re.search(rf"\b({'|'.join(ORDERS)})\b", said)
    if formula is None or order is None or LAYOUT not in said or not {"mean", "std"} <= metadata.keys():
        raise IntegrityError(place, f"says of its input: {said or 'nothing'}", f"{LAYOUT}; RGB; mean and std")
    mean, std = (tuple(json.loads(metadata[name])) for name in ("mean", "std"))
    return Preprocessing(mean, std, order[1], FORMULAS[formula])


def beside(facts: Mapping[str, Any]) -> Preprocessing:
    """What `model.json` tells a runtime to do."""
    return Preprocessing(tuple(facts["normalize"]["mean"]), tuple(facts["normalize"]["std"]))


def input_fault(place: str, told: Preprocessing, true: Input, images: Pixels) -> str:
    """What is wrong with what `place` tells a runtime to feed; "" when it is what the network was trained on.

    Args:
        place: Which file says so.
        told: What it says.
        true: [n, C, H, W], what the network sees in training, without augmentation.
        images: [n, H, W, C], the same images.
    """
    if len(told.mean) != true.shape[1] or len(told.std) != true.shape[1] or min(told.std) <= 0:
        return f"{place}: mean {told.mean} and std {told.std} of {true.shape[1]} channels"
    error = float(np.abs(told(images) - true).max()) / float(np.ptp(true))
    if error <= FP32_MAX_ERROR_TO_RANGE:
        return ""
    likely = f"mean {list(told.mean)}, std {list(told.std)}, {told.order}, pixel / {told.divisor:g}"
    return f"{place}: what it says to feed ({likely}) is off by {error:.2g} of the input's range"


def variants(right: Preprocessing) -> Iterator[tuple[str, Preprocessing]]:
    """The usual mistakes, each in words."""
    plain = (0.0,) * len(right.mean), (1.0,) * len(right.mean)
    if len(right.mean) == 3:
        yield "BGR instead of RGB", Preprocessing(right.mean[::-1], right.std[::-1], "BGR")
        yield "BGR, with mean and std of RGB", Preprocessing(right.mean, right.std, "BGR")
    yield "pixels of 0 to 255 where 0 to 1 were meant", Preprocessing(right.mean, right.std, divisor=1.0)
    yield "pixels of 0 to 255, not normalised", Preprocessing(*plain, divisor=1.0)
    yield "pixels of 0 to 1, not normalised", Preprocessing(*plain)
    yield "pixels of -1 to 1", Preprocessing((0.5,) * len(right.mean), (0.5,) * len(right.mean))
    for name, (mean, std) in NAMED.items():
        if len(mean) == len(right.mean) and (mean, std) != (right.mean, right.std):
            yield f"mean and std of {name}", Preprocessing(mean, std)


def mistaken(right: Preprocessing, answer: Callable[[Preprocessing], Logits], same: Callable[[Logits], bool]) -> str:
    """The mistake of the input that explains other answers, in words; "" when none does.

    Args:
        right: What was fed.
        answer: The logits when something else is fed.
        same: Whether those are the logits looked for.
    """
    for words, wrong in variants(right):
        found = answer(wrong)
        if np.isfinite(found).all() and same(found):
            return words
    return ""


def label_fault(place: str, told: Sequence[str], classes: Sequence[str]) -> str:
    """What is wrong with the class names of `place`; "" when they are the data's."""
    told, classes = list(told), list(classes)
    if told == classes:
        return ""
    if len(told) != len(classes):
        return f"{place}: {len(told)} classes, the data have {len(classes)}"
    at = next(i for i, (a, b) in enumerate(zip(told, classes, strict=True)) if a != b)
    kind = "the data's classes in another order" if sorted(told) == sorted(classes) else "other class names"
    return f"{place}: {kind}: class {at} is {told[at]!r}, in the data {classes[at]!r}"


def reordered(reference: Logits, other: Logits) -> npt.NDArray[np.int64] | None:
    """[classes] the column of `other` that is each column of `reference`, where that is another order; else None."""
    a, b = reference - reference.mean(axis=0), other - other.mean(axis=0)
    scale = np.linalg.norm(a, axis=0)[:, None] * np.linalg.norm(b, axis=0)[None, :]
    order = (a.T @ b / np.where(scale > 0, scale, 1)).argmax(axis=1)
    permuted = len(set(order.tolist())) == len(order) and not np.array_equal(order, np.arange(len(order)))
    return order if permuted else None


def turned_labels(answers: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], classes: Sequence[str]) -> str:
    """Whether answers fit the labels in another order of classes, in words; "" when their own order fits best."""
    table = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(table, (answers, labels), 1)
    seen = np.flatnonzero(table.any(axis=1))
    meant = table[seen].argmax(axis=1)
    own, other = int(np.trace(table)), int(table.max(axis=1).sum())
    # one class for each, which most answers fit, and their own order does not: not a weak network's confusion
    if len(set(meant.tolist())) < len(seen) or other < 2 * own or 2 * other < len(labels):
        return ""
    at = int(np.flatnonzero(meant != seen)[0])
    given, true = classes[seen[at]], classes[meant[at]]
    return f"answers of class {seen[at]} ({given!r}) stand for {true!r}: the labels are in another order"
