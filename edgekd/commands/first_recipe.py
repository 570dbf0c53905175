"""The recipe that `edgekd init` writes: commented YAML with choices that a first run of minutes rests on."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

# A first run is to take minutes: so many multiply-adds of the teacher's forward pass in all epochs, which is about 5 minutes
# of training on 2 AVX-512 cores. The student, which is smaller but has the teacher looking on, takes less than that again.
TEACHER_BUDGET = 1e13
EPOCHS = (4, 60)  # whatever the budget says: fewer teach nothing, more a first look does not need
SIDES = (16, 24, 32, 48, 64, 96, 128)  # pixels to choose from; above, a CPU takes hours: only when asked for
SMALL = 64  # pixels: up to here the CIFAR networks, whose first layer keeps the resolution
CROPS = {  # larger than SMALL -> (augmentation, resize rule with what it does)
    False: ("crop4", "fit-crop    # shorter side to size, then the centre; squash: both sides to size"),
    True: (
        "rrc",
        "photo    # shorter side to 8/7 of size, then the centre; crops for training come from the whole photo",
    ),
}
CALIBRATION = 512  # images, as in every shipped recipe


@dataclass(frozen=True)
class Choice:
    """Networks and settings for images of one size.

    Attributes:
        teacher: Network to learn from.
        student: Network to ship.
        macs: Multiply-adds of the teacher on one image of `side` x `side` pixels.
        side: See macs.
        lr: Largest learning rate of the cycle.
    """

    teacher: str
    student: str
    macs: float
    side: int
    lr: float


CIFAR_PAIR = Choice("resnet56", "resnet20", 125.7e6, 32, 0.1)
LARGE_PAIR = Choice("torchvision:resnet18", "torchvision:mobilenet_v3_small", 1.81e9, 224, 0.05)


@dataclass(frozen=True)
class Wanted:
    """What the recipe is written from.

    Attributes:
        name: Of the recipe.
        file: Where the recipe goes, for the command in its header.
        use: Data set kind.
        path: The data, as the recipe says it.
        portable: Whether path is relative to the recipe's folder.
        images: How many images stay.
        classes: How many classes.
        train: Training images before val is held out.
        own_val: The data have a val split of their own.
        size: Side in pixels.
        weighted: Largest class / smallest class is so large that weights are suggested; the ratio, else None.
        skip: Reason -> files to leave out for it.
    """

    name: str
    file: str
    use: str
    path: str
    portable: bool
    images: int
    classes: int
    train: int
    own_val: bool
    size: int
    weighted: float | None
    skip: Mapping[str, Sequence[str]]


def choose_size(sides: Sequence[tuple[int, int]]) -> int:
    """Side in pixels for images of these (width, height): their own if they are small squares of one size."""
    if len(set(sides)) == 1 and sides[0][0] == sides[0][1] <= SMALL:
        return max(sides[0][0], SIDES[0] // 4)
    shorter = sorted(min(side) for side in sides)
    middle = shorter[len(shorter) // 2]
    return max([side for side in SIDES if side <= middle], default=SIDES[0])


def write(wanted: Wanted) -> str:
    """The recipe as text; every name in it is quoted, so that none can be more than a name."""
    choice = CIFAR_PAIR if wanted.size <= SMALL else LARGE_PAIR
    val = 0 if wanted.own_val else round(wanted.train / 10)
    train = wanted.train - val
    epochs = _epochs(choice, wanted.size, train)
    fit = _fit(epochs, train, choice.lr, wanted.weighted)
    return "\n".join([
        f"# Written by `edgekd init` for {wanted.images:,} images of {wanted.classes} classes: a first run of minutes. Edit it freely.",
        f"# edgekd run --recipe {shlex.quote(wanted.file)}",
        f"name: {_quoted(wanted.name)}",
        "seed: 0",
        "",
        *_data(wanted, val),
        "",
        "# Longer training is better training: 3 and 10 times the epochs usually go on gaining accuracy.",
        "teacher:",
        f"  model: {choice.teacher}    # larger is slower and usually better; `edgekd models` lists them",
        *fit,
        "",
        "student:",
        f"  model: {choice.student}    # what is shipped",
        *fit,
        "",
        "distill: {use: rtk, beta: 50}",
        f"quantize: {{use: ptq, calibrate: entropy, images: {min(CALIBRATION, train)}}}",
        "export: [onnx, onnx-int8]",
        "bench: {device: cpu, profile: quick}",
        "",
    ])  # fmt: skip


def _data(wanted: Wanted, val: int) -> list[str]:
    whose = (
        "relative to this file" if wanted.portable else "of this machine: on another, write where the data lie there"
    )
    crop, resize = CROPS[wanted.size > SMALL]
    held = (
        "the data's own val split, whole"
        if wanted.own_val
        else "held out of train, about 10 %: looked at in training, test decides nothing"
    )
    lines = [
        "data:",
        f"  use: {wanted.use}",
        f"  path: {_quoted(wanted.path)}    # {whose}",
        f"  size: {wanted.size}    # every image becomes {wanted.size} x {wanted.size} pixels; twice the side takes four times as long",
        f"  resize: {resize}",
        f"  augment: [{crop}]",
        "  # Does a mirror image keep its class (no letters, digits, arrows, left and right)? Then this is worth more images:",
        f"  # augment: [{crop}, flip]",
        f"  val: {val}    # {held}",
        "  duplicates: drop_train    # an image that stands in train and in test is dropped from train",
    ]
    if any(wanted.skip.values()):
        lines.append("  skip:    # left out by name; a file that is mended is taken in again by deleting its line")
        for reason, names in wanted.skip.items():
            lines += [f"    # {reason}", *(f"    - {_quoted(name)}" for name in names)] if names else []
    return lines


def _fit(epochs: int, train: int, lr: float, weighted: float | None) -> list[str]:
    lines = [
        "  fit:",
        f"    epochs: {epochs}",
        f"    batch_size: {64 if train >= 2000 else 32 if train >= 200 else 8}",
        f"    lr: {lr}",
        "    schedule: one-cycle",
    ]
    if weighted is not None:
        lines += [
            f"    # The largest class has {weighted:.1f} times the images of the smallest. Are all classes worth the same?",
            "    # class_weights: balanced",
        ]
    return lines


def _epochs(choice: Choice, size: int, train: int) -> int:
    one = choice.macs * (size / choice.side) ** 2 * train
    return min(max(round(TEACHER_BUDGET / one), EPOCHS[0]), EPOCHS[1])


def _quoted(text: str) -> str:
    """One line of YAML that reads as this text, whatever is in it."""
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=sys.maxsize).strip()
