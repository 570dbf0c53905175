"""How long a fit will take, before it is started: from multiply-adds and this machine's measured matrix rate."""

from __future__ import annotations

import time

import torch

from edgekd import models
from edgekd.fit.process import own_threads
from edgekd.models.count import count

SIDE = 1024  # of the square matrices whose product is timed
REPEATS = 8
# Share of the matrix rate that a compiled, channels-last convolution network reached on a 2-core AVX-512 CPU. Small
# networks are bound by memory and reach less; other machines differ: read the estimate as right within a factor of 2.
TRAIN_SHARE = 0.33
FORWARD_SHARE = 0.60
BACKWARD_COST = 3  # forward, gradient of the input, gradient of the weights


def matrix_rate(threads: int) -> float:
    """Multiply-adds per second of a float32 matrix product with so many threads; takes about 0.1 s."""
    with own_threads(threads):
        a = torch.ones(SIDE, SIDE)
        a @ a
        start = time.perf_counter()
        for _ in range(REPEATS):
            a @ a
        return REPEATS * SIDE**3 / (time.perf_counter() - start)


def macs(model: str, classes: int, channels: int, size: tuple[int, int]) -> int:
    """Multiply-adds of one image."""
    network = models.build(model, classes=classes, channels=channels, size=size)
    return count(network, channels=channels, size=size)[1]


def seconds(student_macs: int, teacher_macs: int, images: int, rate: float) -> float:
    """Seconds to show `images` images (epochs x set) to a student, with a teacher looking on (0: none)."""
    per_image = BACKWARD_COST * student_macs / TRAIN_SHARE + teacher_macs / FORWARD_SHARE
    return images * per_image / rate
