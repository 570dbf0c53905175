"""Losses on logits that several methods share: what KL says of the target class, what of the others, standardized logits.

Source: Zhao, Cui, Song, Qiu, Liang, Decoupled Knowledge Distillation, CVPR 2022, section 3; Sun, Ren, Li, Wang, Cao, Logit
Standardization in Knowledge Distillation, CVPR 2024, section 4.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

OFF = 1000.0  # taken from the target's scaled logit: its probability among the other classes is 0 in float32
EPSILON = 1e-7  # beside the standard deviation of logits (released code of Logit Standardization)


def decoupled(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """TCKD and NCKD of each sample, [B] each, in float32, with the factor T^2.

    TCKD is KL of (target, not target), NCKD is KL among the other classes: `T^2 KL = TCKD + (1 - p_t^y) NCKD`.

    Args:
        student: Logits [B, K].
        teacher: Logits [B, K]; no gradient reaches them.
        labels: [B] int64.
        temperature: T, > 0.
    """
    binary_s, others_s = _split(student, labels, temperature)
    binary_t, others_t = _split(teacher.detach(), labels, temperature)
    return _kl(binary_s, binary_t) * temperature**2, _kl(others_s, others_t) * temperature**2


def standardized(logits: Tensor) -> Tensor:
    """Logits [B, K] with mean 0 and standard deviation (of K - 1) 1 in each row, in float32."""
    logits = logits.float()
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + EPSILON)


def warmed(epoch: int, epochs: int) -> float:
    """Weight of a loss in an epoch (counted from 0): (epoch + 1) / epochs, at most 1."""
    return min((epoch + 1) / epochs, 1.0) if epochs else 1.0


def _split(logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (target, not target) [B, 2], and of the classes without the target [B, K]."""
    scaled = logits.float() / temperature
    rest = scaled - OFF * F.one_hot(labels, logits.shape[1])
    binary = torch.stack([scaled.gather(1, labels[:, None])[:, 0], rest.logsumexp(1)], dim=1)
    return F.log_softmax(binary, dim=1), F.log_softmax(rest, dim=1)


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL [B] of log-probabilities [B, n]."""
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
