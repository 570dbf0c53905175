"""Which keys a query attends to: attention [..., N] from logits [..., N] over the keys, rows sum to 1 (RTK).

Part of the edgekd reconstruction of RTK.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Select = Literal["topk", "all", "threshold", "argmax_ste", "stage_topk"]
MASKED = -1e9  # a logit whose softmax is exactly 0


def attend(logits: Tensor, select: Select, k: int, groups: Sequence[int]) -> Tensor:
    """Attention of the selected keys, 0 elsewhere.

    Args:
        logits: [..., N].
        select: `all`: softmax. `topk`: softmax of the k largest. `stage_topk`: of the k largest of each group.
            `threshold`: softmax, keys above 1 / N (and the largest) kept, renormalised. `argmax_ste`: 1 for the largest,
            with the gradient of the softmax.
        k: >= 1; ties of the k-th largest are all kept.
        groups: Sizes of the groups of neighbouring keys, sum N.
    """
    if select == "topk":
        return _largest(logits, k).softmax(-1)
    if select == "stage_topk":
        return torch.cat([_largest(part, k) for part in torch.split(logits, list(groups), dim=-1)], dim=-1).softmax(-1)
    soft = logits.softmax(-1)
    if select == "threshold":
        kept = soft * ((soft > 1 / soft.shape[-1]) | (soft == soft.amax(-1, keepdim=True)))
        return kept / kept.sum(-1, keepdim=True)
    if select == "argmax_ste":
        hard = torch.zeros_like(soft).scatter(-1, soft.argmax(-1, keepdim=True), 1.0)
        return hard + (soft - soft.detach())
    return soft


def auto_k(queries: int, keys: int) -> int:
    """`min(keys, max(2, round(keys / queries)))`: with 1 the softmax is constant and its network gets no gradient."""
    return min(keys, max(2, round(keys / queries)))


def _largest(logits: Tensor, k: int) -> Tensor:
    kth = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < kth, MASKED)
