"""The feature methods in NumPy float64, written from the equations, sample by sample: slow and plain on purpose."""

from __future__ import annotations

import numpy as np
from distiller_forms import Array, Norm, adaptive_average, softmax, unit
from scipy import stats

TAU = 0.1


def pooled(x: Array, height: int, width: int) -> Array:
    """Every map of [B, C, H, W]."""
    return np.stack([np.stack([adaptive_average(image, height, width) for image in sample]) for sample in x])


def level(s: Array, t: Array) -> tuple[Array, Array]:
    height, width = min(s.shape[2], t.shape[2]), min(s.shape[3], t.shape[3])
    return pooled(s, height, width), pooled(t, height, width)


def mse(a: Array, b: Array) -> float:
    return float(((a - b) ** 2).mean())


def convolution(x: Array, w: Array, stride: int = 1, pad: int = 0, bias: Array | None = None) -> Array:
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    down, across = w.shape[2:]
    height, width = (x.shape[2] - down) // stride + 1, (x.shape[3] - across) // stride + 1
    out = np.zeros((len(x), len(w), height, width))
    for i in range(height):
        for j in range(width):
            window = x[:, :, i * stride : i * stride + down, j * stride : j * stride + across]
            out[:, :, i, j] = np.tensordot(window, w, ([1, 2, 3], [1, 2, 3]))
    return out if bias is None else out + bias[:, None, None]


def transposed(x: Array, w: Array, stride: int, pad: int) -> Array:
    side = w.shape[2]
    out = np.zeros((len(x), w.shape[1], (x.shape[2] - 1) * stride + side, (x.shape[3] - 1) * stride + side))
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            block = np.tensordot(x[:, :, i, j], w, (1, 0))
            out[:, :, i * stride : i * stride + side, j * stride : j * stride + side] += block
    return out[:, :, pad:-pad, pad:-pad]


def norm(x: Array, weight: Array, bias: Array) -> Array:
    """BatchNorm of [B, C, H, W] by the statistics of the batch."""
    rows = x.transpose(0, 2, 3, 1)
    return Norm(weight, bias)(rows.reshape(-1, x.shape[1])).reshape(rows.shape).transpose(0, 3, 1, 2)


def nearest(x: Array, height: int, width: int) -> Array:
    rows = [i * x.shape[2] // height for i in range(height)]
    columns = [j * x.shape[3] // width for j in range(width)]
    return x[:, :, rows][:, :, :, columns]


def attention_distance(energy_s: Array, energy_t: Array) -> float:
    """MSE(a(s), a(t)) of one stage, from energy maps [B, H, W]."""
    s, t = level(energy_s[:, None], energy_t[:, None])
    return float(np.mean([(unit(x.ravel()) - unit(y.ravel())) ** 2 for x, y in zip(s, t, strict=True)]))


def sp(s: Array, t: Array) -> float:
    def similarities(x: Array) -> Array:
        rows = x.reshape(len(x), -1)
        return np.stack([unit(row) for row in rows @ rows.T])

    return float(np.linalg.norm(similarities(t) - similarities(s)) ** 2 / len(s) ** 2)


def nst(s: Array, t: Array) -> float:
    s, t = level(s, t)

    def kernel(a: Array, b: Array) -> float:
        return float(np.mean([[(unit(x.ravel()) @ unit(y.ravel())) ** 2 for y in b] for x in a]))

    pairs = list(zip(s, t, strict=True))
    return float(np.mean([kernel(b, b) + kernel(a, a) - 2 * kernel(a, b) for a, b in pairs]))


def vid(s: Array, t: Array, weights: list[Array], rho: Array) -> float:
    s, t = level(s, t)
    first, second, third = weights
    x = np.maximum(convolution(s, first), 0)
    x = convolution(np.maximum(convolution(x, second), 0), third)
    variance = (np.log1p(np.exp(rho)) + 1e-5)[:, None, None]
    return float(0.5 * ((x - t) ** 2 / variance + np.log(variance)).mean())


def margin(weight: float, bias: float) -> float:
    """Mean of a Gaussian of that deviation and mean where it is negative."""
    sigma = abs(weight)
    if stats.norm.cdf(-bias / sigma) <= 0.001:
        return -3 * sigma
    return float(stats.truncnorm.mean(-np.inf, -bias / sigma, loc=bias, scale=sigma))


def partial_l2(s: Array, t: Array, margins: Array) -> float:
    total = 0.0
    for b, c, i, j in np.ndindex(*s.shape):
        ours, theirs, m = s[b, c, i, j], t[b, c, i, j], margins[c]
        if ours > m and theirs <= m:
            total += (ours - m) ** 2
        elif (ours > theirs and m < theirs <= 0) or theirs > 0:
            total += (ours - theirs) ** 2
    return total / len(s)


def hierarchical_context(s: Array, t: Array) -> float:
    total, weights = mse(s, t), 1.0
    for n, grid in enumerate([grid for grid in (4, 2, 1) if grid < min(s.shape[2:])], 1):
        total += mse(pooled(s, grid, grid), pooled(t, grid, grid)) / 2**n
        weights += 1 / 2**n
    return total / weights


def affinity_rows(e_s: Array, e_t: Array) -> float:
    """Mean over rows of KL(softmax(E_t) || softmax(E_s)) of one sample."""
    p_s, p_t = softmax(e_s / TAU), softmax(e_t / TAU)
    return float((p_t * np.log(p_t / p_s)).sum(1).mean())


def affinity(vectors: Array) -> Array:
    return np.array([[unit(x) @ unit(y) for y in vectors] for x in vectors])


def positions(s: Array, t: Array, loss: str) -> float:
    height, width = (min(16, s.shape[side], t.shape[side]) for side in (2, 3))
    s, t = pooled(s, height, width), pooled(t, height, width)
    return rows([x.reshape(len(x), -1).T for x in s], [y.reshape(len(y), -1).T for y in t], loss)


def channels(s: Array, t: Array, loss: str) -> float:
    s, t = level(s, t)
    return rows([x.reshape(len(x), -1) for x in s], [y.reshape(len(y), -1) for y in t], loss)


def rows(s: list[Array], t: list[Array], loss: str) -> float:
    compare = mse if loss == "mse" else affinity_rows
    return float(np.mean([compare(affinity(x), affinity(y)) for x, y in zip(s, t, strict=True)]))
