"""What each layer alone costs when it is quantized: what `edgekd sensitivity` shows and `mixed` decides by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgekd.analysis.sensitivity import LayerLoss
from edgekd.quantizers import judged
from edgekd.quantizers.base import Judge
from edgekd.quantizers.draft import Draft


def losses(
    draft: Draft,
    judge: Judge,
    reference: npt.NDArray[np.float32],
    told: Callable[[LayerLoss], None] = lambda _: None,
) -> list[LayerLoss]:
    """Each layer's own loss against the float graph, in the order of the graph: only its weight and its input are rounded.

    Args:
        draft: What is to be quantized.
        judge: The images.
        reference: Logits [n, classes] of the float graph on them.
        told: Is given each layer as it is done.
    """
    found = []
    for name in draft.layers:
        node = next(node for node in draft.model.graph.node if node.name == name)
        score = judged.score(reference, judged.logits(draft.alone(name), judge), judge)
        found.append(LayerLoss(name, node.op_type, **{key: getattr(score, key) for key in LayerLoss.FIGURES}))
        told(found[-1])
    return found


def fewer(judge: Judge, most: int) -> Judge:
    """At most so many images of a judge, evenly over all."""
    n = len(judge.rows)
    if n <= most:
        return judge
    chosen = np.arange(most) * n // most
    return replace(judge, rows=judge.rows[chosen], labels=judge.labels[chosen])
