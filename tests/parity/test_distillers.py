"""KD, AFD and RTK against NumPy float64 forms."""

import distiller_forms as forms
import numpy as np
import pytest
import torch
from tolerances import LOSS_FP32
from torch import nn

from edgekd.distillers.afd import AFD
from edgekd.distillers.base import Context, Distiller, Outputs, Progress
from edgekd.distillers.kd import KD
from edgekd.distillers.rtk import RTK

STUDENT = [(4, 8), (4, 8), (6, 4)]
TEACHER = [(5, 8), (5, 8), (5, 8), (7, 4), (7, 4), (7, 2)]
UNEVEN = [(4, 9), (6, 5)], [(5, 7), (5, 3), (7, 11)]
WIDER = STUDENT + STUDENT, [(5, 8), (7, 4)]
BATCH, DIM = 5, 8


def outputs(shapes, seed: int) -> Outputs:
    random = torch.Generator().manual_seed(seed)
    taps = {}
    for n, (channels, side) in enumerate(shapes, 1):
        taps[f"block.{n}:energy"] = 10.0 ** (n % 3 - 1) * torch.rand(BATCH, side, side, generator=random)
        taps[f"block.{n}:pooled"] = torch.randn(BATCH, channels, generator=random)
    return Outputs(3 * torch.randn(BATCH, 10, generator=random), taps)


def ready(method: Distiller, shapes, *, training: bool) -> tuple[Distiller, Outputs, Outputs]:
    s, t = outputs(shapes[0], 1), outputs(shapes[1], 2)
    method.wanted(*([f"block.{n}" for n in range(1, len(side) + 1)] for side in shapes))
    random = torch.Generator().manual_seed(3)
    method.setup(Context(nn.Module(), None, s, t, torch.zeros(1), 10, random))
    with torch.no_grad():
        for name, value in method.named_parameters():
            if "norm" in name:
                value.add_(0.3 * torch.randn(value.shape, generator=random))
        for name, value in method.named_buffers():
            if "running" in name:
                value.uniform_(0.5, 1.5, generator=random)
    return method.train(training), s, t


def loss(method: Distiller, s: Outputs, t: Outputs) -> dict[str, float]:
    labels = torch.arange(BATCH)
    terms = method(s, t, labels, Progress(0, 0, 0.0, torch.Generator()))
    return {name: float(term.detach()) for name, term in terms.items()}


def numpy(value: torch.Tensor) -> np.ndarray:
    return value.detach().double().numpy()


def taps(outputs: Outputs, reduction: str) -> list[np.ndarray]:
    return [numpy(tap) for key, tap in outputs.taps.items() if key.endswith(reduction)]


def network(method: Distiller) -> forms.Network:
    """The weights of a method's attention, tap by tap."""
    attention, training = method.attention, method.training

    def norm(weight, bias, mean, var) -> forms.Norm:
        running = (None, None) if training else (numpy(mean).ravel(), numpy(var).ravel())
        return forms.Norm(numpy(weight).ravel(), numpy(bias).ravel(), *running)

    def heads(module) -> list[forms.Layer]:
        weights = [numpy(w) for group in module.linear.weights for w in group]
        biases = [numpy(b) for group in module.linear.biases for b in group]
        bn = module.norm
        parts = [bn.weight, bn.bias, bn.running_mean, bn.running_var]
        rows = zip(*(part.view(len(weights), -1) for part in parts), strict=True)
        return [forms.Layer(w, b, norm(*row)) for w, b, row in zip(weights, biases, rows, strict=True)]

    u, bilinear = attention.bilinear, None
    if u is not None:
        after = norm(u.norm_weight, u.norm_bias, u.running_mean, u.running_var)
        bilinear = forms.Layer(numpy(u.weight).reshape(-1, DIM), numpy(u.bias).ravel(), after)
    positions = [numpy(p) for p in attention.positions] or [None, None]
    return forms.Network(heads(attention.student), heads(attention.teacher), bilinear, *positions)


def test_kd() -> None:
    s, t = outputs(STUDENT, 1), outputs(TEACHER, 2)
    ours = loss(KD(), s, t)
    assert ours["ce"] == pytest.approx(0.1 * forms.cross_entropy(numpy(s.logits), np.arange(BATCH)), rel=LOSS_FP32)
    assert ours["kd"] == pytest.approx(0.9 * forms.kl(numpy(s.logits), numpy(t.logits), 4.0), rel=LOSS_FP32)


@pytest.mark.parametrize("shapes", [(STUDENT, TEACHER), UNEVEN, WIDER])
@pytest.mark.parametrize("training", [True, False])
def test_afd(shapes, training) -> None:
    method, s, t = ready(AFD(qk_dim=DIM), shapes, training=training)
    reference = network(method)
    e = reference.logits(taps(s, "pooled"), taps(t, "pooled"))
    _, d = forms.map_pairs(taps(s, "energy"), taps(t, "energy"), "mse")
    ours = loss(method, s, t)
    assert ours["afd"] == pytest.approx(200 * forms.afd(e, d), rel=LOSS_FP32)
    assert ours["kd"] == pytest.approx(0.9 * forms.kl(numpy(s.logits), numpy(t.logits), 4.0), rel=LOSS_FP32)
    assert ours["ce"] == pytest.approx(forms.cross_entropy(numpy(s.logits), np.arange(BATCH)), rel=LOSS_FP32)


def expected(method: RTK, s: Outputs, t: Outputs, switches: dict) -> float:
    pooled, kind = (taps(s, "pooled"), taps(t, "pooled")), switches.get("pair_loss", "mse")
    e = network(method).logits(*pooled)
    value = switches.get("value", "at")
    pairs = []
    if value != "channel":
        pairs.append(forms.map_pairs(taps(s, "energy"), taps(t, "energy"), kind, switches.get("centre", True)))
    if value != "at":
        project = {
            int(width): [numpy(w) for group in layer.weights for w in group]
            for width, layer in method.channels.projections.items()
        }
        pairs.append(forms.channel_pairs(*pooled, project, kind))
    c = np.mean([c for c, _ in pairs], axis=0)
    d = np.sum([d for _, d in pairs], axis=0)
    student_query = switches.get("attn_direction", "teacher_query") == "student_query"
    n_s, n_t = d.shape[1:]
    queries, keys = (n_s, n_t) if student_query else (n_t, n_s)
    sides = [energy.shape[1:] for energy in taps(t if student_query else s, "energy")]
    return 450 * forms.rtk(
        e,
        c,
        d,
        k=switches.get("k", min(keys, max(2, round(keys / queries)))),
        sizes=[sides.count(side) for side in dict.fromkeys(sides)],
        select=switches.get("select", "topk"),
        student_query=student_query,
        mu=switches.get("sim_weight", 1.0),
        relative=switches.get("dist_norm", "key") == "key",
        rescale=switches.get("rescale", False),
    )


SWITCHES = [
    {},
    {"centre": False},
    {"centre": False, "pair_loss": "smooth_l1"},
    {"k": 3},
    {"select": "all"},
    {"select": "threshold"},
    {"select": "argmax_ste"},
    {"select": "stage_topk"},
    {"select": "stage_topk", "k": 3},
    {"attn_direction": "student_query"},
    {"attn_direction": "teacher_query", "select": "all", "dist_norm": "none", "sim_weight": 0.0},
    {"dist_norm": "none"},
    {"sim_weight": 4.0},
    {"pos_embed": False},
    {"bilinear": "shared"},
    {"bilinear": "none"},
    {"value": "channel"},
    {"value": "both"},
    {"value": "both", "pair_loss": "smooth_l1"},
    {"pair_loss": "smooth_l1"},
    {"pair_loss": "cosine"},
    {"rescale": True},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_rtk(switches, training) -> None:
    method, s, t = ready(RTK(qk_dim=DIM, **switches), (STUDENT, TEACHER), training=training)
    reference = expected(method, s, t, switches)
    assert loss(method, s, t)["rtk"] == pytest.approx(reference, rel=LOSS_FP32)


@pytest.mark.parametrize("shapes", [UNEVEN, WIDER, (STUDENT, TEACHER[:1]), (STUDENT[:1], TEACHER)])
def test_rtk_on_odd_shapes(shapes) -> None:
    method, s, t = ready(RTK(qk_dim=DIM), shapes, training=True)
    assert loss(method, s, t)["rtk"] == pytest.approx(expected(method, s, t, {}), rel=LOSS_FP32)


def test_running_statistics_are_those_of_batchnorm() -> None:
    method, s, t = ready(AFD(qk_dim=DIM), (STUDENT, TEACHER), training=True)
    u = method.attention.bilinear
    old_mean, old_var = numpy(u.running_mean).ravel(), numpy(u.running_var).ravel()
    reference = network(method)
    q = np.stack([np.maximum(f(x), 0) for f, x in zip(reference.student, taps(s, "pooled"), strict=True)], 1)
    rows = q.reshape(-1, DIM) @ reference.bilinear.weight.T + reference.bilinear.bias
    loss(method, s, t)
    assert np.allclose(numpy(u.running_mean).ravel(), 0.9 * old_mean + 0.1 * rows.mean(0), atol=1e-6)
    assert np.allclose(numpy(u.running_var).ravel(), 0.9 * old_var + 0.1 * rows.var(0, ddof=1), atol=1e-6)
