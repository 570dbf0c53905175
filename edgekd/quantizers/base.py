"""What a quantizer is: float ONNX in, ONNX of one scheme out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgekd.errors import RecipeError, nearest

if TYPE_CHECKING:
    from edgekd.quantizers.draft import Draft


@dataclass(frozen=True)
class Judge:
    """Images on which a quantizer's choices are decided, and what is right there. Never of test.

    Attributes:
        images: uint8 [N, H, W, C], the source split; may be a memory map.
        rows: int64 [n], which of them.
        labels: int64 [n], the true classes of those rows.
        mean: Per channel, of pixels in [0, 1].
        std: Per channel, of pixels in [0, 1].
        threads: CPU threads of one operator, >= 1.
        role: `val`, or `train` where nothing is held out: training images that nothing was calibrated on.
    """

    images: npt.NDArray[np.uint8]
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    threads: int
    role: str


@dataclass(frozen=True)
class Range:
    """How one activation is quantized: q = round(x / scale) + zero_point, cut to the scheme's integers."""

    scale: float
    zero_point: int


class Quantizer(ABC):
    """Makes a quantized graph. One file in this folder = one quantizer; its constructor's arguments are its recipe keys.

    Attributes:
        VERSION: Raised when the same inputs give another file.
        schemes: Names of the schemes that it can make.
        decided: What `quantize` chose and on which figures, as plain JSON values; empty when it had no choice.
    """

    VERSION: ClassVar[int]
    schemes: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        self.decided: dict[str, Any] = {}

    @property
    def judged(self) -> bool:
        """Whether `quantize` needs a judge: it has a choice to make."""
        return False

    def check_judge(self, images: int) -> None:  # noqa: B027  # most have nothing to refuse
        """Refuse, before work, a choice that so many images cannot decide.

        Raises:
            RecipeError: They cannot.
        """

    def moot(self, graph: Path) -> frozenset[str]:
        """Names of the arguments that change nothing in this graph's file: nobody is told to try them."""
        return frozenset()

    def draft(
        self,
        graph: Path,
        calibration: Iterable[npt.NDArray[np.float32]],
        scheme: str,
        judge: Judge | None = None,
        ranges: Mapping[str, Range] | None = None,
    ) -> Draft:
        """What `quantize` would write, decided and not written: for those that look at single layers.

        Raises:
            RecipeError: This quantizer has no layers that could stay in float, or as `quantize`.
        """
        name = type(self).__module__.rsplit(".", 1)[-1]
        raise RecipeError("quantize.use", f"{name} quantizes all layers or none", "ptq")

    def require(self, scheme: str) -> None:
        """Refuse a scheme that this quantizer does not make.

        Raises:
            RecipeError: It does not; names those that it makes.
        """
        if scheme not in self.schemes:
            name = type(self).__module__.rsplit(".", 1)[-1]
            raise RecipeError("quantize.use", f"{name} does not make scheme {scheme!r}", nearest(scheme, self.schemes))

    @abstractmethod
    def quantize(
        self,
        graph: Path,
        out: Path,
        *,
        calibration: Iterable[npt.NDArray[np.float32]],
        scheme: str,
        judge: Judge | None = None,
        ranges: Mapping[str, Range] | None = None,
    ) -> Path:
        """Write the quantized graph.

        Args:
            graph: Float ONNX file, `input` [batch, C, H, W] normalised -> `logits`.
            out: The file to write.
            calibration: Batches [B, C, H, W] of real, normalised, un-augmented training images.
            scheme: One of `schemes`.
            judge: What choices are decided on; must be there when `judged`.
            ranges: {tensor of `graph`: its quantization}, of a network trained with them: they are used as they are, and
                nothing is calibrated.

        Returns:
            `out`.

        Raises:
            RecipeError: Unknown scheme, no calibration image, no judge for a choice, or `ranges` for a quantizer that
                has no use for them.
            StageFailed: The tool could not quantize the graph, or `ranges` are not of the activations that it quantizes.
            CheckFailed: No choice is good enough.
        """
