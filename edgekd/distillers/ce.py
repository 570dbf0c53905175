"""CE: labels alone, no teacher.

Needs: nothing.
"""

from __future__ import annotations

from torch import Tensor

from edgekd.distillers.base import Distiller, Outputs, Progress, cross_entropy


class CE(Distiller):
    """Cross-entropy against the labels, no teacher."""

    needs_teacher = False

    def forward(
        self, student: Outputs, teacher: Outputs | None, target: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """`ce`."""
        return {"ce": cross_entropy(student.logits, target)}
