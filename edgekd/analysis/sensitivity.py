"""Accuracy and noise that each layer costs when it alone is quantized: the rows, their order and their words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

COLUMNS = ("layer", "operator", "SQNR dB", "agreement %", "top-1 %", "drop pp")
RIGHT = COLUMNS[2:]


@dataclass(frozen=True)
class LayerLoss:
    """One layer quantized, everything else in float, against the float network on the same images.

    Attributes:
        layer: The node's name.
        operator: Its kind.
        sqnr_db: Signal to noise of the logits, dB.
        agreement_percent: Images with the same top-1.
        top1_percent: Right answers.
        drop_pp: Points of top-1 lost; below 0 when gained.
    """

    FIGURES: ClassVar[tuple[str, ...]] = ("sqnr_db", "agreement_percent", "top1_percent", "drop_pp")

    layer: str
    operator: str
    sqnr_db: float
    agreement_percent: float
    top1_percent: float
    drop_pp: float

    def figures(self) -> dict[str, Any]:
        """As plain JSON values, rounded to what they are worth."""
        return {key: round(v, 4) if isinstance(v, float) else v for key, v in asdict(self).items()}

    def cells(self) -> tuple[str, ...]:
        """One row of a table, in the order of COLUMNS."""
        figures = (self.sqnr_db, self.agreement_percent, self.top1_percent)
        return (self.layer, self.operator, *(f"{value:.2f}" for value in figures), f"{self.drop_pp:+.2f}")


def ranked(losses: Sequence[LayerLoss]) -> list[LayerLoss]:
    """The layer of the most noise first. Noise and not accuracy: top-1 of one layer moves by a few images, by chance."""
    return sorted(losses, key=lambda loss: loss.sqnr_db)
