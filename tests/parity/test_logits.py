"""The methods of logits and of the last map against NumPy float64 forms."""

import logit_forms as forms
import numpy as np
import pytest
import torch
from tolerances import LOSS_FP32
from torch import nn

from edgekd.distillers.base import Context, Distiller, Outputs, Progress, kl
from edgekd.distillers.dist import DIST
from edgekd.distillers.dkd import DKD
from edgekd.distillers.kdfm import KDFM
from edgekd.distillers.logits import decoupled
from edgekd.distillers.ls import LS
from edgekd.distillers.mlkd import MLKD
from edgekd.distillers.simkd import SimKD

BATCH, CLASSES = 7, 10
LABELS = torch.tensor([3, 0, 9, 3, 5, 1, 7])
SIZES = [((4, 8, 8), (6, 4, 4)), ((4, 4, 4), (6, 8, 8)), ((5, 4, 4), (5, 4, 4))]  # last maps of student and teacher


def logits(seed: int, n: int = BATCH, classes: int = CLASSES) -> torch.Tensor:
    return 4 * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))


def loss(method: Distiller, s: Outputs, t: Outputs, epoch: int = 0, labels: torch.Tensor = LABELS) -> dict[str, float]:
    terms = method(s, t, labels, Progress(epoch, epoch, 0.0, torch.Generator()))
    return {name: float(term.detach()) for name, term in terms.items()}


def numpy(value: torch.Tensor) -> np.ndarray:
    return value.detach().double().numpy()


def near(value: float):
    return pytest.approx(value, rel=LOSS_FP32)


Y = LABELS.numpy()
S, T = logits(1), logits(2)
Z_S, Z_T = numpy(S), numpy(T)


@pytest.mark.parametrize(("epoch", "weight"), [(0, 0.05), (9, 0.5), (19, 1.0), (100, 1.0)])
def test_dkd(epoch, weight) -> None:
    ours = loss(DKD(beta=6.0), Outputs(S), Outputs(T), epoch)
    assert ours["ce"] == near(forms.cross_entropy(Z_S, Y))
    assert ours["dkd_tckd"] == near(weight * forms.tckd(Z_S, Z_T, Y, 4.0).mean())
    assert ours["dkd_nckd"] == near(weight * 6 * forms.nckd(Z_S, Z_T, Y, 4.0).mean())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_kd_is_tckd_and_what_is_left_of_nckd(temperature, classes) -> None:
    s, t, labels = logits(1, classes=classes), logits(2, classes=classes), LABELS % classes
    target, others = decoupled(s, t, labels, temperature)
    p = (t / temperature).softmax(1)[torch.arange(BATCH), labels]
    for b in range(BATCH):
        whole = float(kl(s[b : b + 1], t[b : b + 1], temperature))
        assert float(target[b] + (1 - p[b]) * others[b]) == pytest.approx(whole, rel=LOSS_FP32, abs=1e-6)


@pytest.mark.parametrize(("of", "epoch"), [("kd", 0), ("dkd", 0), ("dkd", 30)])
def test_ls(of, epoch) -> None:
    ours = loss(LS(of=of, alpha=0.5, beta=3.0), Outputs(S), Outputs(T), epoch)
    z_s, z_t = forms.standardized(Z_S), forms.standardized(Z_T)
    if of == "kd":
        expected = forms.kl(z_s, z_t, 2.0)
    else:
        parts = 0.5 * forms.tckd(z_s, z_t, Y, 2.0) + 3 * forms.nckd(z_s, z_t, Y, 2.0)
        expected = min((epoch + 1) / 20, 1) * parts.mean()
    assert ours["ls"] == near(9 * expected)
    assert ours["ce"] == near(0.1 * forms.cross_entropy(Z_S, Y))


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_dist(tau) -> None:
    ours = loss(DIST(tau=tau, beta=0.7, gamma=1.3), Outputs(S), Outputs(T))
    assert ours["ce"] == near(forms.cross_entropy(Z_S, Y))
    assert ours["dist_inter"] == near(2 * 0.7 * forms.dist_inter(Z_S, Z_T, tau))
    assert ours["dist_intra"] == near(2 * 1.3 * forms.dist_intra(Z_S, Z_T, tau))


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("n", [7, 6])
def test_mlkd(compat, n) -> None:
    views = [logits(seed, n) for seed in (1, 2, 3, 4)]
    weak_s, weak_t, strong_s, strong_t = views
    s, t = Outputs(torch.cat([weak_s, strong_s])), Outputs(torch.cat([weak_t, strong_t]))
    ours = loss(MLKD(mlkd_compat=compat), s, t, labels=LABELS[:n])
    plain = [numpy(view) for view in views]
    parts = forms.mlkd((plain[0], plain[1]), (plain[2], plain[3]), compat=compat)
    for name, part in zip(("instance", "class", "batch"), parts, strict=True):
        assert ours[f"mlkd_{name}"] == near(0.9 * part)
    assert ours["ce"] == near(0.1 * (forms.cross_entropy(plain[0], Y[:n]) + forms.cross_entropy(plain[2], Y[:n])))


class Headed(nn.Module):
    """Enough of a network to be grafted: a pool and a linear classifier."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, CLASSES)


def last_maps(method: Distiller, sizes) -> tuple[Outputs, Outputs]:
    random = torch.Generator().manual_seed(3)
    taps = [{"last:map": torch.randn(BATCH, *size, generator=random).relu()} for size in sizes]
    s, t = Outputs(S, taps[0]), Outputs(T, taps[1])
    method.wanted(["last"], ["last"])
    ours, theirs = (Headed(size[0]) for size in sizes)
    nn.init.normal_(theirs.classifier.weight, generator=random)
    method.setup(Context(ours, theirs, s, t, LABELS, CLASSES, random))
    for value in method.parameters():
        if value.dim() == 1 and value.requires_grad:
            with torch.no_grad():
                value.add_(0.3 * torch.randn(value.shape, generator=random))
    return s, t


def adapted(layers: nn.Sequential, sizes, student: np.ndarray) -> np.ndarray:
    """The student's map through the layers of an adapter, by NumPy."""
    factor = max(1, sizes[0][1] // sizes[1][1])
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    parts = [(numpy(c.weight), numpy(n.weight), numpy(n.bias)) for c, n in zip(convolutions, norms, strict=True)]
    return forms.project(forms.pooled(student, factor), parts)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("factor", [1, 2])
def test_simkd(sizes, factor) -> None:
    method = SimKD(factor=factor)
    s, t = last_maps(method, sizes)
    shapes = [tuple(layer.weight.shape) for layer in method.projector if isinstance(layer, nn.Conv2d)]
    (c_s, _, _), (c_t, _, _) = sizes
    inside = c_t // factor
    assert shapes == [(inside, c_s, 1, 1), (inside, inside, 3, 3), (c_t, inside, 1, 1)]
    projected = adapted(method.projector, sizes, numpy(s.taps["last:map"]))
    theirs = numpy(t.taps["last:map"])
    theirs = forms.pooled(theirs, max(1, theirs.shape[2] // projected.shape[2]))
    assert loss(method, s, t) == {"simkd": near(((projected - theirs) ** 2).mean())}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("adv", ["lsgan", "hinge", "bce"])
def test_kdfm(sizes, adv) -> None:
    method = KDFM(adv=adv, kd_weight=0.5)
    s, t = last_maps(method, sizes)
    method.discriminator.eval()  # no power iteration: the weights that the test reads are those that the loss used
    ours = loss(method, s, t, epoch=2)
    student, theirs = numpy(s.taps["last:map"]), numpy(t.taps["last:map"])
    fake = student if sizes[0] == sizes[1] else adapted(method.adapter, sizes, student)
    real = forms.pooled(theirs, max(1, theirs.shape[2] // fake.shape[2]))
    z = fake.mean((2, 3)) @ numpy(method.classifier.weight).T + numpy(method.classifier.bias)
    assert ours["ce"] == near(forms.cross_entropy(z, Y))
    assert ours["kd"] == near(0.5 * forms.kl(z, Z_T, 4.0))
    assert ours["kdfm_map"] == near(((fake - real) ** 2).mean())
    layers = []
    for layer in method.discriminator.layers:
        said = layer.parametrizations.weight
        vectors = numpy(said[0]._u), numpy(said[0]._v)
        layers.append((forms.spectral(numpy(said.original), *vectors), numpy(layer.bias)))
    scores = forms.judge(real, layers), forms.judge(fake, layers)
    assert ours["kdfm_disc"] == near(forms.telling(adv, *scores))
    assert ours["kdfm_adv"] == near(0.4 * 0.1 * forms.fooling(adv, scores[1]))  # two of five epochs of the ramp


def test_kdfm_l1() -> None:
    method = KDFM(fm_loss="l1", adv="none", map_weight=3.0)
    s, t = last_maps(method, SIZES[2])
    gap = np.abs(numpy(s.taps["last:map"]) - numpy(t.taps["last:map"])).mean()
    assert loss(method, s, t)["kdfm_map"] == near(3 * gap)
    assert method.discriminator is None and not method.optimizers()


def test_discriminators_have_the_size_that_is_published_with_the_reconstruction() -> None:
    for channels, millions in ((448, 1.4), (1168, 3.1)):
        method = KDFM()
        sizes = (channels, 8, 8), (channels, 8, 8)
        s, t = (Outputs(S[:2], {"last:map": torch.zeros(2, *size)}) for size in sizes)
        method.setup(
            Context(Headed(channels), Headed(channels), s, t, LABELS, CLASSES, torch.Generator().manual_seed(0))
        )
        found = sum(parameter.numel() for parameter in method.discriminator.parameters())
        assert round(found / 1e6, 1) == millions
