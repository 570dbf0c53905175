"""How long a fit will take, before it is started: from multiply-adds and this machine's measured convolution rate, or for
another package's network from a few steps of it: depthwise convolutions take far longer than their multiply-adds say.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

from edgekd import models
from edgekd.fit.process import own_threads
from edgekd.models.count import count

BATCH, CHANNELS, SIDE = 64, 64, 16  # of the 3x3 convolution that is timed; a matrix product may use another library
REPEATS = 20
STEP_BATCH, STEPS = 16, 3  # of a network that is run to be timed: the first step allocates
# Share of that rate that ResNet-20 in training and a frozen ResNet-56 forward reached, compiled, on a 2-core AVX-512 CPU.
# Networks and machines differ: read the estimate as right within a factor of 2, less so below 32x32 pixels,
# where calls and not multiply-adds take the time.
TRAIN_SHARE = 0.35
FORWARD_SHARE = 0.70
BACKWARD_COST = 3  # forward, gradient of the input, gradient of the weights


def convolution_rate(threads: int) -> float:
    """Multiply-adds per second of a float32, channels-last convolution with so many threads; takes about 0.05 s."""
    images = torch.ones(BATCH, CHANNELS, SIDE, SIDE).to(memory_format=torch.channels_last)
    filters = torch.ones(CHANNELS, CHANNELS, 3, 3).to(memory_format=torch.channels_last)
    with own_threads(threads), torch.no_grad():
        taken = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            F.conv2d(images, filters, padding=1)
            taken.append(time.perf_counter() - start)
    return BATCH * SIDE**2 * CHANNELS**2 * 9 / min(taken)  # the best: what disturbs a call says nothing of the machine


def macs(model: str, classes: int, channels: int, size: tuple[int, int]) -> int:
    """Multiply-adds of one image."""
    network = models.build(model, classes=classes, channels=channels, size=size)
    return count(network, channels=channels, size=size)[1]


def measured(model: str, classes: int, channels: int, size: tuple[int, int], threads: int, training: bool) -> float:
    """Seconds an image, from a step that was run here, eager and in float32: forward, and backward in training."""
    network = models.build(model, classes=classes, channels=channels, size=size).train(training)
    network.to(memory_format=torch.channels_last)
    images = torch.rand(STEP_BATCH, channels, *size).to(memory_format=torch.channels_last)
    with own_threads(threads), torch.set_grad_enabled(training):
        taken = []
        for _ in range(STEPS):
            start = time.perf_counter()
            logits = network(images)
            if training:
                logits.square().mean().backward()
            taken.append(time.perf_counter() - start)
    return min(taken) / STEP_BATCH


def seconds(student_macs: int, teacher_macs: int, images: int, rate: float) -> float:
    """Seconds to show `images` images (epochs x set) to a student, with a teacher looking on (0: none)."""
    per_image = BACKWARD_COST * student_macs / TRAIN_SHARE + teacher_macs / FORWARD_SHARE
    return images * per_image / rate
