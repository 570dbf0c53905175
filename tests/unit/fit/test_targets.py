"""Targets against weighted and smoothed cross-entropy written out image by image in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tolerances import LOSS_FP32

from edgekd import registry
from edgekd.distillers.base import Progress
from edgekd.errors import RecipeError
from edgekd.fit.batches import TrainingData
from edgekd.fit.targets import class_weights, targets
from edgekd.recipe import Fit
from edgekd.taps import Outputs

CLASSES = 4
LABELS = torch.tensor([0] * 12 + [1] * 4 + [2] * 3 + [3])
BALANCED = Fit(class_weights="balanced")


def balanced() -> torch.Tensor:
    weights = class_weights(LABELS, CLASSES, BALANCED, "student")
    assert weights is not None
    return weights


def by_hand(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray, smoothing: float) -> float:
    total = 0.0
    for row, label in zip(logits.astype(np.float64), labels, strict=True):
        log_p = row - np.log(np.exp(row).sum())
        wanted = np.full(CLASSES, smoothing / CLASSES)
        wanted[label] += 1 - smoothing
        total += -weights[label] * float((wanted * log_p).sum())
    return total / len(labels)


def test_weights_are_inverse_to_the_counts_and_one_in_the_mean() -> None:
    weights = balanced()
    assert weights.tolist() == pytest.approx([20 / (4 * n) for n in (12, 4, 3, 1)])
    assert float(weights[LABELS].mean()) == pytest.approx(1)
    parts = [float(weights[LABELS[label == LABELS]].sum()) for label in range(CLASSES)]
    assert parts == pytest.approx([5.0] * CLASSES)
    assert class_weights(LABELS, CLASSES, Fit(), "student") is None


def test_a_class_without_image_cannot_be_weighed() -> None:
    with pytest.raises(RecipeError, match=r"student\.fit\.class_weights: no training image of class 4"):
        class_weights(LABELS, CLASSES + 1, BALANCED, "student")


def test_plain_labels_stay_labels() -> None:
    assert targets(LABELS, CLASSES, 0, None) is LABELS


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("use", ["ce", "kd"])
def test_the_loss_is_the_one_written_out(use: str, smoothing: float, weighted: bool) -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(0, 3, (9, CLASSES)).astype(np.float32), random.integers(0, CLASSES, 9)
    weights = balanced() if weighted else None
    target = targets(torch.from_numpy(labels), CLASSES, smoothing, weights)
    distiller = registry.construct("distillers", use, {})
    student = Outputs(torch.from_numpy(logits), {}, torch.arange(9))
    teacher = Outputs(torch.zeros(9, CLASSES), {}, torch.arange(9))
    terms = distiller(student, teacher, target, Progress(0, 0, 0.0, torch.Generator()))
    scale = 1.0 if use == "ce" else distiller.ce_weight
    shares = np.ones(CLASSES) if weights is None else weights.numpy().astype(np.float64)
    assert float(terms["ce"]) == pytest.approx(scale * by_hand(logits, labels, shares, smoothing), rel=LOSS_FP32)


@pytest.mark.parametrize("use", sorted(set(registry.plugins("distillers")) - {"simkd"}))  # which sees no labels
def test_a_fit_with_balanced_classes(fitted: Callable[..., Any], data: TrainingData, tmp_path: Path, use: str) -> None:
    """Every method takes the weighted targets, and they reach its loss."""
    uneven = replace(data, labels=torch.where(torch.arange(70) < 60, data.labels % 2, data.labels))
    rules = ("balanced", None)
    weighted, plain = (
        fitted(use, epochs=1, given=uneven, class_weights=rule, folder=tmp_path / str(rule)).history[0]["ce"]
        for rule in rules
    )
    assert math.isfinite(weighted)
    assert weighted != pytest.approx(plain, rel=1e-2)


def test_no_weights_leave_no_trace_in_a_key() -> None:
    assert "class_weights" not in Fit().model_dump()
    assert BALANCED.model_dump()["class_weights"] == "balanced"
    with pytest.raises(ValueError, match="class_weights"):
        Fit(class_weights="inverse")  # type: ignore[arg-type]
