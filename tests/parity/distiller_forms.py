"""KD, AFD and RTK in NumPy float64, written from the equations, pair by pair: slow and plain on purpose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray
EPS_BN = 1e-5


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def cross_entropy(z: Array, labels: Array) -> float:
    p = softmax(z)
    return float(np.mean([-np.log(p[b, y]) for b, y in enumerate(labels)]))


def kl(z_s: Array, z_t: Array, temperature: float) -> float:
    p_s, p_t = softmax(z_s / temperature), softmax(z_t / temperature)
    return float(temperature**2 / len(z_s) * (p_t * np.log(p_t / p_s)).sum())


@dataclass
class Norm:
    """BatchNorm over rows; without running statistics, those of the rows."""

    weight: Array
    bias: Array
    mean: Array | None = None
    var: Array | None = None

    def __call__(self, x: Array) -> Array:
        mean = x.mean(0) if self.mean is None else self.mean
        var = x.var(0) if self.var is None else self.var
        return (x - mean) / np.sqrt(var + EPS_BN) * self.weight + self.bias


@dataclass
class Layer:
    """Linear, then BatchNorm."""

    weight: Array
    bias: Array
    norm: Norm

    def __call__(self, x: Array) -> Array:
        return self.norm(x @ self.weight.T + self.bias)


@dataclass
class Network:
    """The attention network: heads per tap, U: d -> maps * d (None: no U), positions (None: none)."""

    student: list[Layer]
    teacher: list[Layer]
    bilinear: Layer | None
    p_student: Array | None
    p_teacher: Array | None

    def logits(self, pooled_s: list[Array], pooled_t: list[Array]) -> Array:
        n_s, n_t, batch = len(pooled_s), len(pooled_t), len(pooled_s[0])
        q = np.stack([np.maximum(layer(x), 0) for layer, x in zip(self.student, pooled_s, strict=True)], 1)
        k = np.stack([layer(x) for layer, x in zip(self.teacher, pooled_t, strict=True)], 1)
        d = q.shape[2]
        if self.bilinear is None:
            per_key = np.repeat(q[:, :, None], n_t, 2)
        else:
            per_key = self.bilinear(q.reshape(batch * n_s, d)).reshape(batch, n_s, -1, d)
            per_key = np.broadcast_to(per_key, (batch, n_s, n_t, d)) if per_key.shape[2] == 1 else per_key
        e = np.empty((batch, n_s, n_t))
        for b in range(batch):
            for i in range(n_s):
                for j in range(n_t):
                    e[b, i, j] = per_key[b, i, j] @ k[b, j]
                    if self.p_student is not None and self.p_teacher is not None:
                        e[b, i, j] += self.p_student[i] @ self.p_teacher[j]
        return e / np.sqrt(d)


def unit(v: Array) -> Array:
    return v / max(float(np.sqrt((v**2).sum())), 1e-12)


def adaptive_average(image: Array, height: int, width: int) -> Array:
    h, w = image.shape
    out = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            rows = slice(y * h // height, -(-(y + 1) * h // height))
            columns = slice(x * w // width, -(-(x + 1) * w // width))
            out[y, x] = image[rows, columns].mean()
    return out


def distance(s: Array, t: Array, loss: str) -> float:
    if loss == "cosine":
        return float(1 - s @ t)
    gap = np.abs(s - t)
    if loss == "smooth_l1":
        return float(np.where(gap < 1, gap**2 / 2, gap - 0.5).mean())
    return float((gap**2).mean())


def map_pairs(energy_s: list[Array], energy_t: list[Array], loss: str, centre: bool = False) -> tuple[Array, Array]:
    batch = len(energy_s[0])
    c, d = np.empty((2, batch, len(energy_s), len(energy_t)))
    for b in range(batch):
        for i, s in enumerate(energy_s):
            for j, t in enumerate(energy_t):
                v_s, v_t = adaptive_average(s[b], *t[b].shape).ravel(), t[b].ravel()
                if centre:
                    v_s, v_t = v_s - v_s.mean(), v_t - v_t.mean()
                v_s, v_t = unit(v_s), unit(v_t)
                c[b, i, j], d[b, i, j] = v_s @ v_t, distance(v_s, v_t, loss)
    return c, d


def channel_pairs(pooled_s: list[Array], pooled_t: list[Array], project: dict[int, list[Array]], loss: str):
    batch = len(pooled_s[0])
    c, d = np.empty((2, batch, len(pooled_s), len(pooled_t)))
    for b in range(batch):
        for i, s in enumerate(pooled_s):
            for j, t in enumerate(pooled_t):
                v_s, v_t = unit(project[t.shape[1]][i] @ s[b]), unit(t[b])
                c[b, i, j], d[b, i, j] = v_s @ v_t, distance(v_s, v_t, loss)
    return c, d


def afd(alpha_logits: Array, d: Array) -> float:
    """Sum over teacher taps of the mean over the batch of the attended distances; softmax over student taps."""
    alpha = softmax(alpha_logits.transpose(0, 2, 1)).transpose(0, 2, 1)
    return float((alpha * d).sum((1, 2)).mean())


def attend(row: Array, select: str, k: int, sizes: list[int]) -> Array:
    """Attention over the keys of one query of one sample."""
    n = len(row)
    keep = np.ones(n, bool)
    if select == "topk":
        keep = row >= np.sort(row)[-k]
    if select == "stage_topk":
        ends = np.cumsum(sizes)
        parts = [row[end - size : end] for end, size in zip(ends, sizes, strict=True)]
        keep = np.concatenate([part >= np.sort(part)[-min(k, len(part))] for part in parts])
    if select == "threshold":
        keep = softmax(row) > 1 / n
    if select == "argmax_ste":
        keep = row == row.max()
    weights = np.where(keep, softmax(row), 0.0)
    return weights / weights.sum()


def rtk(
    alpha_logits: Array,
    c: Array,
    d: Array,
    *,
    k: int,
    sizes: list[int],
    select: str = "topk",
    student_query: bool = True,
    mu: float = 1.0,
    relative: bool = True,
    rescale: bool = True,
) -> float:
    batch, n_s, n_t = d.shape
    e = alpha_logits + mu * c
    total = 0.0
    for b in range(batch):
        alpha = np.zeros((n_s, n_t))
        for query in range(n_s if student_query else n_t):
            if student_query:
                alpha[query] = attend(e[b, query], select, k, sizes)
            else:
                alpha[:, query] = attend(e[b, :, query], select, k, sizes)
        for i in range(n_s):
            for j in range(n_t):
                scale = d.mean() / (d[b, :, j].mean() + 1e-12) if relative else 1.0
                total += alpha[i, j] * d[b, i, j] * scale
    return total / batch * (n_t / n_s if rescale else 1.0)
