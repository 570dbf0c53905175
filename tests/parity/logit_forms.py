"""DKD, LS, DIST, MLKD, SimKD and KDFM in NumPy float64, written from the equations, sample by sample."""

from __future__ import annotations

import numpy as np
from distiller_forms import EPS_BN, Array, cross_entropy, kl, softmax

__all__ = ["cross_entropy", "kl"]


def divergence(p_t: Array, p_s: Array) -> float:
    return float(sum(t * np.log(t / s) for t, s in zip(p_t, p_s, strict=True) if t > 0))


def tckd(z_s: Array, z_t: Array, labels: Array, temperature: float) -> Array:
    out = []
    for s, t, y in zip(z_s, z_t, labels, strict=True):
        p_s, p_t = softmax(s / temperature)[y], softmax(t / temperature)[y]
        out.append(divergence(np.array([p_t, 1 - p_t]), np.array([p_s, 1 - p_s])))
    return temperature**2 * np.array(out)


def nckd(z_s: Array, z_t: Array, labels: Array, temperature: float) -> Array:
    out = []
    for s, t, y in zip(z_s, z_t, labels, strict=True):
        out.append(divergence(softmax(np.delete(t, y) / temperature), softmax(np.delete(s, y) / temperature)))
    return temperature**2 * np.array(out)


def standardized(z: Array) -> Array:
    return np.stack([(row - row.mean()) / (row.std(ddof=1) + 1e-7) for row in z])


def correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / (np.sqrt(a @ a) * np.sqrt(b @ b) + 1e-8))


def dist_inter(z_s: Array, z_t: Array, tau: float) -> float:
    p_s, p_t = softmax(z_s / tau), softmax(z_t / tau)
    return tau**2 * (1 - float(np.mean([correlation(s, t) for s, t in zip(p_s, p_t, strict=True)])))


def dist_intra(z_s: Array, z_t: Array, tau: float) -> float:
    p_s, p_t = softmax(z_s / tau), softmax(z_t / tau)
    return tau**2 * (1 - float(np.mean([correlation(p_s[:, k], p_t[:, k]) for k in range(p_s.shape[1])])))


def gram_gap(a: Array, b: Array) -> float:
    """Squared Frobenius distance of A'A and B'B."""
    return float(((a.T @ a - b.T @ b) ** 2).sum())


def mlkd(weak: tuple[Array, Array], strong: tuple[Array, Array], *, compat: bool) -> tuple[float, float, float]:
    """(instance, class, batch) of student and teacher logits of both views."""
    p = softmax(weak[1])
    confidence, per_class = p.max(1), p.sum(0)
    sample = np.mean(confidence <= np.percentile(confidence, 50)) if compat else 0.5
    group = np.mean(per_class <= np.percentile(per_class, 50)) if compat else 0.5
    instance = classes = batch = 0.0
    for t in (4.0, 3.0, 5.0, 2.0, 6.0):
        instance += sample * kl(*weak, t) + kl(*(weak if compat and t in (2.0, 6.0) else strong), t)
        p_s, p_t = softmax(weak[0] / t), softmax(weak[1] / t)
        classes += group * gram_gap(p_t, p_s) / p_s.shape[1]
        batch += sample * gram_gap(p_t.T, p_s.T) / p_s.shape[0]
    return instance, classes, batch


def convolve(x: Array, kernel: Array, bias: Array | None = None, stride: int = 1) -> Array:
    """[B, C, H, W] with [O, C, k, k], zeros around the image."""
    k = kernel.shape[2]
    x = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    height, width = (x.shape[2] - k) // stride + 1, (x.shape[3] - k) // stride + 1
    out = np.empty((len(x), len(kernel), height, width))
    for i in range(height):
        for j in range(width):
            part = x[:, :, i * stride : i * stride + k, j * stride : j * stride + k]
            out[:, :, i, j] = np.einsum("bcij,ocij->bo", part, kernel)
    return out if bias is None else out + bias[None, :, None, None]


def batchnorm(x: Array, weight: Array, bias: Array) -> Array:
    """By the batch's own statistics."""
    mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    return (x - mean) / np.sqrt(var + EPS_BN) * weight[None, :, None, None] + bias[None, :, None, None]


def pooled(x: Array, factor: int) -> Array:
    b, c, h, w = x.shape
    return x.reshape(b, c, h // factor, factor, w // factor, factor).mean((3, 5))


def project(x: Array, layers: list[tuple[Array, Array, Array]]) -> Array:
    """Convolution, BatchNorm and ReLU of each (kernel, weight, bias)."""
    for kernel, weight, bias in layers:
        x = np.maximum(batchnorm(convolve(x, kernel), weight, bias), 0)
    return x


def spectral(weight: Array, u: Array, v: Array) -> Array:
    """A weight divided by its singular value to these vectors."""
    return weight / (u @ weight.reshape(len(weight), -1) @ v)


def judge(x: Array, layers: list[tuple[Array, Array]]) -> Array:
    """Scores [B] of the discriminator's (weight, bias), weights already of norm 1."""
    for (kernel, bias), stride in zip(layers[:-1], (1, 2, 2), strict=True):
        x = convolve(x, kernel, bias, stride)
        x = np.where(x > 0, x, 0.2 * x)
    weight, bias = layers[-1]
    return (x.mean((2, 3)) @ weight.T + bias)[:, 0]


def telling(kind: str, real: Array, fake: Array) -> float:
    if kind == "lsgan":
        return float(0.5 * np.mean((real - 1) ** 2) + 0.5 * np.mean(fake**2))
    if kind == "hinge":
        return float(0.5 * np.mean(np.maximum(0, 1 - real)) + 0.5 * np.mean(np.maximum(0, 1 + fake)))
    sigmoid_r, sigmoid_f = 1 / (1 + np.exp(-real)), 1 / (1 + np.exp(-fake))
    return float(-0.5 * np.mean(np.log(sigmoid_r)) - 0.5 * np.mean(np.log(1 - sigmoid_f)))


def fooling(kind: str, fake: Array) -> float:
    if kind == "lsgan":
        return float(0.5 * np.mean((fake - 1) ** 2))
    return float(-np.mean(fake)) if kind == "hinge" else float(-np.mean(np.log(1 / (1 + np.exp(-fake)))))
