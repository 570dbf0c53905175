"""Images as they are stored -> the network's input; its logits -> an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Sequence, Tuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


class Normaliser:
    """(image / 255 - mean) / std as one multiplication and one addition a value.

    Args:
        mean: [C], of images in [0, 1].
        std: [C], > 0.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        deviation = np.asarray(std, dtype=np.float64)
        shape = (1, -1, 1, 1)
        self.scale = (1 / (255 * deviation)).astype(np.float32).reshape(shape)
        self.offset = (-np.asarray(mean, dtype=np.float64) / deviation).astype(np.float32).reshape(shape)

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """[B, H, W, C] uint8 -> [B, C, H, W] float32, contiguous."""
        batch, height, width, channels = images.shape
        out = np.empty((batch, channels, height, width), dtype=np.float32)
        np.multiply(images.transpose(0, 3, 1, 2), self.scale, out=out)
        out += self.offset
        return out


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Probabilities [B, C] of logits [B, C]."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    return np.asarray(odds)


def conclude(logits: npt.NDArray[np.float32]) -> Tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The answers [B] and the probabilities [B, C]: what a program does with logits, and what is timed as `postprocess`."""
    probabilities = softmax(logits)
    return probabilities.argmax(axis=1), probabilities
