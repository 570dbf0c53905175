"""Simplifying a graph with a proof that its answers stay the same, and what it was worth."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnxsim
from onnx import ModelProto

from edgekd import onnxfile, onnxrun
from edgekd.errors import CheckFailed, StageFailed

MAX_ERROR_TO_RANGE = 1.0e-6  # room for constants folded in another order; CIFAR networks come out bit-identical
RANDOM_BATCHES = (1, 3, 16)  # images of the proof beside the golden ones: the batch must have stayed free


@dataclass(frozen=True)
class Simplification:
    """What the simplifier did, measured on stripped graphs.

    Attributes:
        simplifier: `onnxsim` or `none`.
        nodes_before: Nodes of the traced graph.
        nodes_after: Nodes of the graph that is kept.
        bytes_before: Size of the traced graph.
        bytes_after: Size of the graph that is kept.
        error_to_range: Largest difference of a logit over the range of the logits; 0.0 = bit-identical.
    """

    simplifier: str
    nodes_before: int
    nodes_after: int
    bytes_before: int
    bytes_after: int
    error_to_range: float


def simplify(
    model: ModelProto,
    simplifier: Literal["onnxsim", "none"],
    images: npt.NDArray[np.float32],
    bound: float = MAX_ERROR_TO_RANGE,
) -> tuple[ModelProto, Simplification]:
    """The graph to keep, and the measured effect (also when there is none).

    Args:
        model: A stripped graph; it is not changed.
        simplifier: `none` keeps the graph as it is.
        images: [n, C, H, W] normalised, n >= 1: real inputs of the proof.
        bound: Largest difference of a logit that is allowed / range of the logits.

    Raises:
        StageFailed: onnxsim says itself that its graph is not valid.
        CheckFailed: The simplified graph answers otherwise.
    """
    before = onnxfile.to_bytes(model)
    kept = model if simplifier == "none" else onnxfile.strip(_onnxsim(onnxfile.from_bytes(before)))
    after = onnxfile.to_bytes(kept)
    error = 0.0 if after == before else prove_equal(before, after, images, bound)
    return kept, Simplification(simplifier, len(model.graph.node), len(kept.graph.node), len(before), len(after), error)


def prove_equal(
    before: bytes, after: bytes, images: npt.NDArray[np.float32], bound: float = MAX_ERROR_TO_RANGE
) -> float:
    """Run two graphs on real and on random images; the largest difference over the range of the logits.

    Raises:
        CheckFailed: It exceeds the bound, or is no number.
    """
    generator = np.random.Generator(np.random.PCG64(0))
    shape = images.shape[1:]
    batches = [images, *(generator.standard_normal((n, *shape), dtype=np.float32) for n in RANDOM_BATCHES)]
    sessions = onnxrun.session(before), onnxrun.session(after)
    worst = 0.0
    for batch in batches:
        first, second = (onnxrun.infer(opened, batch).astype(np.float64) for opened in sessions)
        if np.array_equal(first, second):
            continue
        span = first.max() - first.min()
        error = float(np.abs(first - second).max() / span) if span > 0 else float("inf")
        if not error <= bound:
            raise CheckFailed(
                "graph.simplify",
                f"onnxsim changes the logits by {error:.3g} of their range",
                f"<= {bound:g}",
            )
        worst = max(worst, error)
    return worst


def _onnxsim(model: ModelProto) -> ModelProto:
    with redirect_stdout(io.StringIO()):
        simplified: ModelProto
        simplified, valid = onnxsim.simplify(model)
    if not valid:
        raise StageFailed("graph.simplify", "onnxsim made a graph that fails its own check")
    return simplified
