"""What a quantizer is: float ONNX in, ONNX of one scheme out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from edgekd.errors import RecipeError, nearest


class Quantizer(ABC):
    """Makes a quantized graph. One file in this folder = one quantizer; its constructor's arguments are its recipe keys.

    Attributes:
        VERSION: Raised when the same inputs give another file.
        schemes: Names of the schemes that it can make.
    """

    VERSION: ClassVar[int]
    schemes: ClassVar[tuple[str, ...]]

    def require(self, scheme: str) -> None:
        """Refuse a scheme that this quantizer does not make.

        Raises:
            RecipeError: It does not; names those that it makes.
        """
        if scheme not in self.schemes:
            name = type(self).__module__.rsplit(".", 1)[-1]
            raise RecipeError("quantize.use", f"{name} does not make scheme {scheme!r}", nearest(scheme, self.schemes))

    @abstractmethod
    def quantize(self, graph: Path, out: Path, *, calibration: Iterable[npt.NDArray[np.float32]], scheme: str) -> Path:
        """Write the quantized graph.

        Args:
            graph: Float ONNX file, `input` [batch, C, H, W] normalised -> `logits`.
            out: The file to write.
            calibration: Batches [B, C, H, W] of real, normalised, un-augmented training images.
            scheme: One of `schemes`.

        Returns:
            `out`.

        Raises:
            RecipeError: Unknown scheme, or no calibration image.
            StageFailed: The tool could not quantize the graph.
        """
