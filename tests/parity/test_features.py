"""The feature methods against NumPy float64 forms."""

import feature_forms as forms
import numpy as np
import pytest
import torch
from distiller_forms import cross_entropy, kl
from madeup import Pair, ready, stages
from tolerances import LOSS_FP32
from torch import nn

from edgekd import models
from edgekd.distillers.at import AT
from edgekd.distillers.fitnet import FitNet
from edgekd.distillers.hmat import HMAT
from edgekd.distillers.nst import NST
from edgekd.distillers.ofd import OFD
from edgekd.distillers.reviewkd import ReviewKD
from edgekd.distillers.sp import SP
from edgekd.distillers.vid import VID

EVEN = [(4, 8, 8), (6, 4, 4), (8, 2, 2)]
WIDE = [(5, 8, 8), (9, 4, 4), (20, 2, 2)]
ODD = [(4, 9, 7), (6, 5, 4), (8, 3, 2)]
FOUR = [(5, 6, 6), (5, 4, 4), (7, 4, 4), (9, 2, 3)]
PAIRS = [(EVEN, EVEN), (EVEN, WIDE), (ODD, FOUR), (FOUR, EVEN)]


def numpy(value: torch.Tensor) -> np.ndarray:
    return value.detach().double().numpy()


def taps(pair: Pair, reduction: str = "map") -> list[tuple[np.ndarray, np.ndarray]]:
    """The taps of student and teacher in the order in which they were asked for."""
    sides = [[numpy(tap) for key, tap in side.taps.items() if key.endswith(reduction)] for side in pair[1:]]
    return list(zip(*sides, strict=True))


def parameters(norm: nn.BatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    return numpy(norm.weight), numpy(norm.bias)


def check(pair: Pair, name: str, expected: float) -> None:
    assert float(pair()[name].detach()) == pytest.approx(expected, rel=LOSS_FP32)


@pytest.mark.parametrize("shapes", PAIRS)
def test_at(shapes) -> None:
    pair = ready(AT(), *(stages(*side) for side in shapes))
    check(pair, "at", 1000 * sum(forms.attention_distance(*both) for both in taps(pair, "energy")))


@pytest.mark.parametrize("shapes", PAIRS)
def test_sp(shapes) -> None:
    pair = ready(SP(), *(stages(*side) for side in shapes), batch=5)
    check(pair, "sp", 3000 * forms.sp(*taps(pair)[0]))


@pytest.mark.parametrize("shapes", PAIRS)
def test_nst(shapes) -> None:
    pair = ready(NST(), *(stages(*side) for side in shapes))
    check(pair, "nst", 50 * sum(forms.nst(*both) for both in taps(pair)))


@pytest.mark.parametrize("shapes", PAIRS)
def test_vid(shapes) -> None:
    pair = ready(VID(), *(stages(*side) for side in shapes))
    total = 0.0
    for gaussian, both in zip(pair.method.gaussians, taps(pair), strict=True):
        with torch.no_grad():
            gaussian.rho.copy_(torch.linspace(-2, 6, len(gaussian.rho)))
        weights = [numpy(layer.weight) for layer in gaussian.regressor if isinstance(layer, nn.Conv2d)]
        total += forms.vid(*both, weights, numpy(gaussian.rho))
    check(pair, "vid", total)


FIT = {
    "equal": ((6, 4, 5), (9, 4, 5)),
    "halved": ((6, 8, 6), (9, 4, 3)),
    "halved, odd": ((6, 9, 7), (9, 5, 4)),
    "doubled": ((6, 3, 4), (9, 6, 8)),
    "a little larger": ((6, 6, 5), (9, 4, 2)),
    "much larger": ((6, 20, 18), (9, 3, 2)),
    "smaller": ((6, 3, 3), (9, 7, 7)),
    "larger and smaller": ((6, 6, 3), (9, 4, 4)),
}


@pytest.mark.parametrize("case", FIT)
def test_fitnet(case) -> None:
    pair = ready(FitNet(hint_layer=1), *(stages(shape) for shape in FIT[case]))
    (s, t), (layer, norm, _) = taps(pair)[0], pair.method.regressor.layers
    w = numpy(layer.weight)
    if case.startswith("halved"):
        x = forms.convolution(s, w, stride=2, pad=1)
    elif case == "doubled":
        x = forms.transposed(s, w, stride=2, pad=1)
    elif case in ("equal", "a little larger"):
        x = forms.convolution(s, w)
    else:
        s, t = forms.level(s, t)
        x = forms.convolution(s, w)
    check(pair, "fitnet", 100 * forms.mse(np.maximum(forms.norm(x, *parameters(norm)), 0), t))


@pytest.mark.parametrize("sides", [(8, 4, 2), (3, 2, 1), (9, 9, 1)])
def test_ofd(sides) -> None:
    teacher = models.build("resnet8", classes=10)
    norms = [teacher.get_submodule(f"layer{n}.0.bn2") for n in (1, 2, 3)]
    for norm in norms:
        nn.init.uniform_(norm.weight, -1.5, 1.5, generator=torch.Generator().manual_seed(1))
        nn.init.uniform_(norm.bias, -2.0, 4.0, generator=torch.Generator().manual_seed(2))
    theirs = [(width, side, side) for width, side in zip((16, 32, 64), sides, strict=True)]
    pair = ready(OFD(), stages(*EVEN, preact=True), stages(*theirs, preact=True), network=teacher)
    total = 0.0
    for n, (both, norm) in enumerate(zip(taps(pair), norms, strict=True)):
        s, t = forms.level(*both)
        convolution, after = pair.method.connectors[n].layers
        x = forms.norm(forms.convolution(s, numpy(convolution.weight)), *parameters(after))
        margins = np.array([forms.margin(*channel) for channel in zip(*parameters(norm), strict=True)])
        total += forms.partial_l2(x, t, margins) / 2 ** (2 - n)
    check(pair, "ofd", 0.001 * total)


@pytest.mark.parametrize("shapes", PAIRS)
@pytest.mark.parametrize("epoch", [0, 7, 30])
def test_reviewkd(shapes, epoch) -> None:
    pair = ready(ReviewKD(beta=5.0), stages(*shapes[0]), stages(*shapes[1], preact=True))
    total, deeper = 0.0, None
    pooled = [tuple(x[:, :, None, None] for x in both) for both in taps(pair, "pooled")]
    for fusion, (s, t) in zip(pair.method.fusions, [*pooled, *taps(pair)], strict=True):
        x = forms.norm(forms.convolution(s, numpy(fusion.enter[0].weight)), *parameters(fusion.enter[1]))
        if deeper is not None:
            y = forms.nearest(deeper, *x.shape[2:])
            gate = fusion.attention[0]
            z = forms.convolution(np.concatenate([x, y], 1), numpy(gate.weight), bias=numpy(gate.bias))
            z = 1 / (1 + np.exp(-z))
            x = x * z[:, :1] + y * z[:, 1:]
        deeper = forms.nearest(x, *t.shape[2:])
        out = forms.convolution(deeper, numpy(fusion.leave[0].weight), pad=1)
        total += forms.hierarchical_context(forms.norm(out, *parameters(fusion.leave[1])), t)
    expected = 5 * min((epoch + 1) / 20, 1) * total
    assert float(pair(epoch)["reviewkd"].detach()) == pytest.approx(expected, rel=LOSS_FP32)


HMAT_PAIRS = [(EVEN, EVEN), (EVEN, WIDE), ([(4, 20, 18), (6, 5, 4), (8, 3, 2)], FOUR)]


@pytest.mark.parametrize("shapes", HMAT_PAIRS)
@pytest.mark.parametrize("switches", [{}, {"affinity_loss": "mse"}, {"all_levels": True}], ids=str)
def test_hmat(shapes, switches) -> None:
    pair = ready(HMAT(**switches), *(stages(*side) for side in shapes))
    levels = ("low", "mid", "high")
    everywhere, loss = "all_levels" in switches, switches.get("affinity_loss", "kl")
    expected = {"position": 0.0, "channel": 0.0, "activation": 0.0}
    for name in levels:
        tap_s, tap_t = pair.method.student_taps[name], pair.method.teacher_taps[name]
        if everywhere or name == "low":
            s, t = (numpy(side.taps[f"{tap}:map"]) for side, tap in zip(pair[1:], (tap_s, tap_t), strict=True))
            expected["position"] += 0.1 * forms.positions(s, t, loss)
        if everywhere or name == "high":
            s, t = (numpy(side.taps[f"{tap}:map"]) for side, tap in zip(pair[1:], (tap_s, tap_t), strict=True))
            if s.shape[1] != t.shape[1]:
                convolution, after = pair.method.projectors[name]
                s = forms.norm(forms.convolution(s, numpy(convolution.weight)), *parameters(after))
            expected["channel"] += 0.1 * forms.channels(s, t, loss)
        if everywhere or name != "low":
            s, t = (numpy(side.taps[f"{tap}:energy"]) for side, tap in zip(pair[1:], (tap_s, tap_t), strict=True))
            expected["activation"] += 100 * forms.attention_distance(s, t)
    for kind, value in expected.items():
        check(pair, f"hmat_{kind}", value)


METHODS = (AT, FitNet, NST, ReviewKD, SP, VID)


@pytest.mark.parametrize("kind", METHODS)
def test_labels_and_logits(kind) -> None:
    pair = ready(kind(kd_weight=0.7, temperature=2.0), stages(*EVEN), stages(*WIDE))
    z_s, z_t = numpy(pair.student.logits), numpy(pair.teacher.logits)
    check(pair, "ce", cross_entropy(z_s, np.arange(3)))
    check(pair, "kd", 0.7 * kl(z_s, z_t, 2.0))
    assert "kd" not in ready(kind(), stages(*EVEN), stages(*WIDE))()


def test_labels_and_logits_of_hmat() -> None:
    pair = ready(HMAT(), stages(*EVEN), stages(*WIDE))
    z_s, z_t = numpy(pair.student.logits), numpy(pair.teacher.logits)
    check(pair, "ce", cross_entropy(z_s, np.arange(3)))
    check(pair, "kd", 0.9 * kl(z_s, z_t, 4.0))
