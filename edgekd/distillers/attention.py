"""Attention over pairs of taps (AFD, RTK): which taps, their attention logits, and its mean to show.

Pairs are [B, N_S, N_T]: student taps in rows, teacher taps in columns. All maths is float32. Taps that follow each
other with one width go through together, so a step costs a few batched kernels, not one for each pair.

Source: Ji, Heo, Park, Show, Attend and Distill, AAAI 2021, arXiv 2102.02973, sections 3.1-3.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.taps import Outputs, Reduction, Wanted


def both(taps: Sequence[str]) -> Wanted:
    """Energy map and pooled vector of each tap."""
    return [*((tap, "energy") for tap in taps), *((tap, "pooled") for tap in taps)]


def read(outputs: Outputs, taps: Sequence[str], reduction: Reduction) -> list[Tensor]:
    """Those taps of the outputs, in that reduction."""
    return [outputs.taps[f"{tap}:{reduction}"] for tap in taps]


def widths(outputs: Outputs, taps: Sequence[str]) -> list[int]:
    """Channels of those taps, from their pooled vectors."""
    return [pooled.shape[1] for pooled in read(outputs, taps, "pooled")]


def float32(like: Tensor) -> AbstractContextManager[Any]:
    """Autocast off on that tensor's device: distances are ~1e-3 and their squares underflow in half precision."""
    return torch.autocast(like.device.type, enabled=False)


class GroupedLinear(nn.Module):
    """One linear layer per tap, those of equal width in one product: N tensors [B, C_n] -> [B, N, outputs]."""

    def __init__(self, inputs: Sequence[int], outputs: int, generator: torch.Generator, *, bias: bool = True) -> None:
        super().__init__()
        self.runs = [(width, len(list(run))) for width, run in groupby(inputs)]
        bounds = [(1 / math.sqrt(width), width, n) for width, n in self.runs]  # torch's initialisation of nn.Linear
        self.weights = nn.ParameterList(_uniform((n, outputs, width), b, generator) for b, width, n in bounds)
        biases = [_uniform((n, outputs), b, generator) for b, _, n in bounds] if bias else []
        self.biases = nn.ParameterList(biases)

    def forward(self, vectors: Sequence[Tensor]) -> Tensor:
        """[B, N, outputs] of the N vectors."""
        parts, start = [], 0
        for place, (_, n) in enumerate(self.runs):
            stacked = torch.stack([vector.float() for vector in vectors[start : start + n]])
            part = torch.bmm(stacked, self.weights[place].transpose(1, 2)).transpose(0, 1)
            parts.append(part + self.biases[place] if len(self.biases) else part)
            start += n
        return torch.cat(parts, dim=1)


class Heads(nn.Module):
    """Linear and BatchNorm1d per tap: N tensors [B, C_n] -> [B, N, dim]. Needs B >= 2 while training."""

    def __init__(self, inputs: Sequence[int], dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.linear = GroupedLinear(inputs, dim, generator)
        self.norm = nn.BatchNorm1d(len(inputs) * dim)

    def forward(self, vectors: Sequence[Tensor]) -> Tensor:
        """[B, N, dim]."""
        projected = self.linear(vectors)
        normed: Tensor = self.norm(projected.flatten(1))
        return normed.view_as(projected)


class Bilinear(nn.Module):
    """`<BN(U_j s_i), t_j>` of student vectors s [B, N_S, d] and teacher vectors t [B, N_T, d], as [B, N_S, N_T].

    U: d -> maps * d, its BatchNorm over all B * N_S rows; maps is N_T (one for each teacher tap) or 1 (one for all).
    BatchNorm of a linear layer is affine once its statistics are known, and those follow from the covariance of s: so
    U_j' is applied to t_j once instead of U_j to every s_i. Exact, with no [B, N_S, N_T, d] tensor.
    """

    running_mean: Tensor
    running_var: Tensor
    MOMENTUM, EPSILON = 0.1, 1e-5  # of torch's BatchNorm1d

    def __init__(self, dim: int, maps: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = _uniform((maps, dim, dim), 1 / math.sqrt(dim), generator)
        self.bias = _uniform((maps, dim), 1 / math.sqrt(dim), generator)
        self.norm_weight = nn.Parameter(torch.ones(maps, dim))
        self.norm_bias = nn.Parameter(torch.zeros(maps, dim))
        self.register_buffer("running_mean", torch.zeros(maps, dim))
        self.register_buffer("running_var", torch.ones(maps, dim))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Dot products [B, N_S, N_T]."""
        mean, var = self._statistics(student.flatten(0, 1)) if self.training else (self.running_mean, self.running_var)
        scale = self.norm_weight * torch.rsqrt(var + self.EPSILON)
        shift = (self.bias - mean) * scale + self.norm_bias
        weight = self.weight.expand(teacher.shape[1], -1, -1)
        pulled = torch.bmm((teacher * scale).transpose(0, 1), weight).transpose(0, 1)
        return torch.bmm(student, pulled.transpose(1, 2)) + (teacher * shift).sum(2).unsqueeze(1)

    def _statistics(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        n, centre = len(rows), rows.mean(0)
        centred = rows - centre
        covariance = centred.T @ centred / n
        mean = self.weight @ centre + self.bias
        var = ((self.weight @ covariance) * self.weight).sum(2).clamp_min(0)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.MOMENTUM)
            self.running_var.lerp_(var * (n / (n - 1)), self.MOMENTUM)
        return mean, var


class Attention(nn.Module):
    """Attention logits of every pair of taps, `(<U_j ReLU(BN(W_i s_i)), BN(W_j t_j)> + P_i . P_j) / sqrt(dim)`.

    Args:
        student_widths: Channels of each student tap.
        teacher_widths: Channels of each teacher tap.
        dim: Size of queries and keys.
        generator: Initialises all weights.
        bilinear: U for each teacher tap, one U for all, or no U.
        positions: Learn a vector for each tap and add their products.
    """

    def __init__(
        self,
        student_widths: Sequence[int],
        teacher_widths: Sequence[int],
        dim: int,
        generator: torch.Generator,
        *,
        bilinear: Literal["per_key", "shared", "none"] = "per_key",
        positions: bool = True,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.student, self.teacher = Heads(student_widths, dim, generator), Heads(teacher_widths, dim, generator)
        maps = {"per_key": len(teacher_widths), "shared": 1, "none": 0}[bilinear]
        self.bilinear = Bilinear(dim, maps, generator) if maps else None
        self.positions = nn.ParameterList()
        for n in (len(student_widths), len(teacher_widths)) if positions else ():
            vectors = nn.init.xavier_normal_(torch.empty(n, dim), generator=generator)
            self.positions.append(nn.Parameter(vectors))

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """[B, N_S, N_T] of pooled taps [B, C] of student and teacher."""
        s, t = F.relu(self.student(student)), self.teacher(teacher)
        dots = torch.bmm(s, t.transpose(1, 2)) if self.bilinear is None else self.bilinear(s, t)
        if len(self.positions):
            dots = dots + self.positions[0] @ self.positions[1].T
        return dots / math.sqrt(self.dim)


class MeanAttention(nn.Module):
    """Mean attention of the steps since it was last read."""

    total: Tensor

    def __init__(self, student_taps: Sequence[str], teacher_taps: Sequence[str]) -> None:
        super().__init__()
        self.student_taps, self.teacher_taps, self.steps = list(student_taps), list(teacher_taps), 0
        self.register_buffer("total", torch.zeros(len(student_taps), len(teacher_taps)), persistent=False)

    def add(self, alpha: Tensor) -> None:
        """Count the attention [B, N_S, N_T] of one step."""
        self.total += alpha.detach().mean(0)
        self.steps += 1

    def read(self) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """`attention` [N_S, N_T] and the names of its rows and columns; empty when there was no step."""
        if not self.steps:
            return {}
        mean = (self.total / self.steps).cpu().numpy()
        self.total.zero_()
        self.steps = 0
        return {
            "attention": mean,
            "student_taps": np.array(self.student_taps),
            "teacher_taps": np.array(self.teacher_taps),
        }


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))
