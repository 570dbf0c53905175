"""RKD, PKT, CRD, VkD, DiffKD and SemCKD in NumPy float64, written from the equations, image by image: slow and plain on purpose."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from distiller_forms import EPS_BN, adaptive_average, kl, softmax, unit

Array = np.ndarray


def smooth_l1(a: Array, b: Array) -> float:
    gap = np.abs(a - b)
    return float(np.where(gap < 1, gap**2 / 2, gap - 0.5).mean())


def rkd(x_s: Array, x_t: Array) -> tuple[float, float]:
    """Losses of distances and of angles."""

    def relations(x: Array) -> tuple[Array, Array]:
        n = len(x)
        d = np.array(
            [[np.sqrt(max(((x[i] - x[j]) ** 2).sum(), 1e-12)) if i != j else 0 for j in range(n)] for i in range(n)]
        )
        angles = np.empty((n, n, n))
        for j in range(n):
            for i in range(n):
                for k in range(n):
                    angles[j, i, k] = unit(x[i] - x[j]) @ unit(x[k] - x[j])
        return d / d[d > 0].mean(), angles

    (d_s, a_s), (d_t, a_t) = relations(x_s), relations(x_t)
    return smooth_l1(d_s, d_t), smooth_l1(a_s, a_t)


def pkt(x_s: Array, x_t: Array) -> float:
    def probabilities(x: Array) -> Array:
        n = len(x)
        near = np.array([[(unit(x[i]) @ unit(x[j]) + 1) / 2 for j in range(n)] for i in range(n)])
        return near / near.sum(1, keepdims=True)

    p_s, p_t = probabilities(x_s), probabilities(x_t)
    return float(np.mean(p_t * np.log((p_t + 1e-7) / (p_s + 1e-7))))


def crd(embeddings: Array, rows: Array, drawn: Array, tau: float, constant: float | None) -> tuple[float, float]:
    """Loss of one side, and its Z; drawn: each image's own row, then its negatives."""
    n, m = len(rows), drawn.shape[1] - 1
    scores = np.array(
        [[np.exp(rows[row] @ e / tau) for row in mine] for e, mine in zip(embeddings, drawn, strict=True)]
    )
    constant = float(scores.mean() * n) if constant is None else constant
    total = 0.0
    for p in scores / constant:
        total += np.log(p[0] / (p[0] + m / n + 1e-7))
        total += sum(np.log((m / n) / (q + m / n + 1e-7)) for q in p[1:])
    return -total / len(embeddings), constant


def moved(row: Array, embedding: Array, momentum: float) -> Array:
    return unit(momentum * row + (1 - momentum) * embedding)


def vkd(x_s: Array, x_t: Array, projection: Array, norm: str) -> float:
    u = x_s @ projection.T
    if norm == "layernorm":
        v = (x_t - x_t.mean(1, keepdims=True)) / np.sqrt(x_t.var(1, keepdims=True) + 1e-5)
    elif norm == "standardise":
        v = (x_t - x_t.mean(0)) / (x_t.std(0) + 1e-5)
    elif norm == "whiten":
        centred = x_t - x_t.mean(0)
        values, axes = np.linalg.eigh(centred.T @ centred / len(x_t) + 1e-4 * np.eye(x_t.shape[1]))
        v = centred @ axes @ np.diag(values**-0.5) @ axes.T
    else:
        v = x_t
    return smooth_l1(u, v)


def abar() -> Array:
    out, kept = [], 1.0
    for t in range(1000):
        kept *= 1 - (1e-4 + (0.02 - 1e-4) * t / 999)
        out.append(kept)
    return np.array(out)


Layers = dict[str, Array]  # a module's weights by name, in float64


def conv(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Convolution of [B, C, H, W], 1x1 or 3x3 with a border of zeros."""
    pad = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    height, width = x.shape[2:]
    out = np.zeros((len(x), len(weight), height, width))
    for dy in range(weight.shape[2]):
        for dx in range(weight.shape[3]):
            part = padded[:, :, dy : dy + height, dx : dx + width]
            out += np.einsum("oc,bchw->bohw", weight[:, :, dy, dx], part)
    return out if bias is None else out + bias[None, :, None, None]


def norm(x: Array, weight: Array, bias: Array) -> Array:
    """BatchNorm with the statistics of the batch."""
    mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    return (x - mean) / np.sqrt(var + EPS_BN) * weight[None, :, None, None] + bias[None, :, None, None]


def chain(x: Array, layers: Layers, prefix: str, plan: str) -> Array:
    """Layers numbered from 0 under a prefix: c a convolution, n a BatchNorm, r a ReLU, b a bottleneck."""
    for i, kind in enumerate(plan):
        at = f"{prefix}{i}."
        if kind == "c":
            x = conv(x, layers[at + "weight"], layers.get(at + "bias"))
        elif kind == "n":
            x = norm(x, layers[at + "weight"], layers[at + "bias"])
        elif kind == "b":
            x = x + chain(x, layers, at + "body.", "cnrcnrcn")
        else:
            x = np.maximum(x, 0)
    return x


def diffkd(
    layers: Layers, student: Array, teacher: Array, draws: tuple[Array, Array, Array], *, flat: bool, code: bool
) -> tuple[Array, Array, float, float]:
    """Denoised student, its target, and the losses of noise and code; draws: times, noise, noise of the student."""
    times, eps, eps_s = draws
    kept = abar()
    target, code_loss = teacher, 0.0
    if code:
        target = chain(teacher, layers, "encoder.", "cn")
        back = conv(target, layers["decoder.weight"], layers["decoder.bias"])
        code_loss = float(((back - teacher) ** 2).mean())

    def predict(x: Array, at: Array) -> Array:
        return chain(
            x + layers["times.weight"][at][:, :, None, None], layers, "predictor.", "cnrcncnrc" if flat else "bbcn"
        )

    a = kept[times][:, None, None, None]
    noise_loss = float(((predict(np.sqrt(a) * target + np.sqrt(1 - a) * eps, times) - eps) ** 2).mean())
    s = conv(student, layers["entry.weight"], layers["entry.bias"])
    trunk = chain(s, layers, "level.0.", "cnrcn") if flat else chain(s, layers, "level.", "b")
    gamma = softmax(trunk.mean((2, 3)) @ layers["level.3.weight"].T + layers["level.3.bias"])[:, :1, None, None]
    x = ddim(predict, gamma * s + (1 - gamma) * eps_s)
    return chain(x, layers, "exit.", "cn"), target, noise_loss, code_loss


def ddim(predict: Callable[[Array, Array], Array], x: Array) -> Array:
    kept = abar()
    for t in (400, 300, 200, 100, 0):
        eps = predict(x, np.full(len(x), t))
        x0 = (x - np.sqrt(1 - kept[t]) * eps) / np.sqrt(kept[t])
        after = kept[t - 100] if t else 1.0
        x = np.sqrt(after) * x0 + np.sqrt(1 - after) * eps
    return x


def diffkd_logits(denoised: Array, teacher: Array, temperature: float) -> float:
    return kl(denoised[:, :, 0, 0], teacher, temperature)


def resized(maps: Array, height: int, width: int) -> Array:
    return np.array([[adaptive_average(channel, height, width) for channel in image] for image in maps])


def semckd(student: list[Array], teacher: list[Array], layers: Layers, group: int) -> float:
    """Weights named `queries.i`, `keys.j` (layers 0 and 2), `bottlenecks.n` of the pairs, student by student."""
    batch = len(student[0])

    def embedded(maps: Array, prefix: str) -> Array:
        out = []
        for b in range(batch):
            row = np.zeros(group)
            first = b // group * group
            for other in range(first, min(first + group, batch)):
                row[other - first] = (maps[b] * maps[other]).sum()
            hidden = np.maximum(layers[f"{prefix}0.weight"] @ row + layers[f"{prefix}0.bias"], 0)
            out.append(unit(layers[f"{prefix}2.weight"] @ hidden + layers[f"{prefix}2.bias"]))
        return np.array(out)

    queries = [embedded(maps, f"queries.{i}.") for i, maps in enumerate(student)]
    keys = [embedded(maps, f"keys.{j}.") for j, maps in enumerate(teacher)]
    total = 0.0
    for i, s in enumerate(student):
        alpha = softmax(np.array([[queries[i][b] @ key[b] for key in keys] for b in range(batch)]))
        for j, t in enumerate(teacher):
            size = min(s.shape[2], t.shape[2]), min(s.shape[3], t.shape[3])
            changed = chain(resized(s, *size), layers, f"bottlenecks.{i * len(teacher) + j}.", "cnrcnrc")
            mse = ((changed - resized(t, *size)) ** 2).mean((1, 2, 3))
            total += float((alpha[:, j] * mse).sum())
    return total / (batch * len(student))
