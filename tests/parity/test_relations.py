"""RKD, PKT, CRD, VkD, DiffKD and SemCKD against NumPy float64 forms."""

import distiller_forms
import numpy as np
import pytest
import relation_forms as forms
import torch
from tolerances import LOSS_FP32
from torch import nn

from edgekd.distillers.base import Context, Distiller, Outputs, Progress
from edgekd.distillers.crd import CRD
from edgekd.distillers.diffkd import DiffKD
from edgekd.distillers.pkt import PKT
from edgekd.distillers.rkd import RKD
from edgekd.distillers.semckd import SemCKD
from edgekd.distillers.vkd import VkD

BATCH, CLASSES = 6, 4
LABELS = torch.arange(40) % CLASSES


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outputs(seed: int, taps: dict[str, tuple[int, ...]]) -> Outputs:
    draw = random(seed)
    made = {key: torch.rand(BATCH, *shape, generator=draw) * 2 for key, shape in taps.items()}
    return Outputs(3 * torch.randn(BATCH, CLASSES, generator=draw), made, torch.tensor([3, 17, 5, 30, 8, 39]))


def vectors(ours: int, theirs: int) -> tuple[Outputs, Outputs]:
    return outputs(1, {"pooled:pooled": (ours,)}), outputs(2, {"pooled:pooled": (theirs,)})


def maps(ours: list[tuple[int, int, int]], theirs: list[tuple[int, int, int]]) -> tuple[Outputs, Outputs]:
    sides = [{f"stage.{n}:map": shape for n, shape in enumerate(side, 1)} for side in (ours, theirs)]
    return outputs(1, sides[0]), outputs(2, sides[1])


def ready(method: Distiller, s: Outputs, t: Outputs) -> Distiller:
    method.wanted(*([key.split(":")[0] for key in side.taps] for side in (s, t)))
    draw = random(3)
    method.setup(Context(nn.Module(), None, s, t, LABELS, CLASSES, draw))
    with torch.no_grad():
        for value in method.parameters():
            if value.dim() == 1:  # BatchNorms too, which begin as nothing
                value.add_(0.3 * torch.randn(value.shape, generator=draw))
    return method.train()


def terms(method: Distiller, s: Outputs, t: Outputs, seed: int = 4) -> dict[str, float]:
    progress = Progress(0, 0, 0.0, random(seed))
    given = method(s, t, torch.arange(BATCH) % CLASSES, progress)
    return {name: float(term.detach()) for name, term in given.items()}


def numpy(value: torch.Tensor) -> np.ndarray:
    return value.detach().double().numpy()


def pooled(*sides: Outputs) -> list[np.ndarray]:
    return [numpy(side.taps["pooled:pooled"]) for side in sides]


def layers(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: numpy(value) for name, value in module.named_parameters()}


@pytest.mark.parametrize(
    ("method", "kd"),
    [(RKD, 0), (PKT, 0), (CRD, 0), (VkD, 0.9), (RKD, 0.7), (PKT, 0.7), (CRD, 0.7)],
)
def test_labels_and_logits_beside_them(method, kd) -> None:
    s, t = vectors(5, 7)
    name = "alpha_kd" if method is VkD else "kd_weight"
    given = terms(ready(method(**({name: kd} if kd else {})), s, t), s, t)
    labels = np.arange(BATCH) % CLASSES
    assert given["ce"] == pytest.approx(distiller_forms.cross_entropy(numpy(s.logits), labels), rel=LOSS_FP32)
    assert ("kd" in given) == bool(kd)
    if kd:
        assert given["kd"] == pytest.approx(
            kd * distiller_forms.kl(numpy(s.logits), numpy(t.logits), 4.0), rel=LOSS_FP32
        )


def test_rkd() -> None:
    s, t = vectors(5, 7)
    distance, angle = forms.rkd(*pooled(s, t))
    assert terms(RKD(), s, t)["rkd"] == pytest.approx(25 * distance + 50 * angle, rel=LOSS_FP32)
    only = RKD(beta=2.0, distance_weight=3.0, angle_weight=0.0)
    assert terms(only, s, t)["rkd"] == pytest.approx(6 * distance, rel=LOSS_FP32)


def test_pkt() -> None:
    s, t = vectors(5, 7)
    assert terms(PKT(), s, t)["pkt"] == pytest.approx(30000 * forms.pkt(*pooled(s, t)), rel=LOSS_FP32)


@pytest.mark.parametrize("nce_k", [9, 100])
def test_crd(nce_k) -> None:
    s, t = vectors(5, 7)
    method = ready(CRD(nce_k=nce_k, dim=8), s, t)
    x_s, x_t = pooled(s, t)
    index = s.index.numpy()
    rows = [numpy(method.student_rows), numpy(method.teacher_rows)]
    constants: list[float | None] = [None, None]
    for step in range(2):
        weights = layers(method)
        e_s = x_s @ weights["student_embedding.weight"].T + weights["student_embedding.bias"]
        e_t = x_t @ weights["teacher_embedding.weight"].T + weights["teacher_embedding.bias"]
        e_s, e_t = (np.array([forms.unit(e) for e in side]) for side in (e_s, e_t))
        negatives = method.negatives.draw(s.index, random(step)).numpy()
        drawn = np.concatenate([index[:, None], negatives], 1)
        ours, constants[0] = forms.crd(e_s, rows[1], drawn, 0.07, constants[0])
        theirs, constants[1] = forms.crd(e_t, rows[0], drawn, 0.07, constants[1])
        assert terms(method, s, t, seed=step)["crd"] == pytest.approx(0.8 * (ours + theirs), rel=LOSS_FP32)
        method.after_backward(Progress(0, step, 0.0, random(0)))
        for bank, fresh in zip(rows, (e_s, e_t), strict=True):
            for row, e in zip(index, fresh, strict=True):
                bank[row] = forms.moved(bank[row], e, 0.5)
    assert numpy(method.student_rows) == pytest.approx(rows[0], abs=1e-6)
    assert numpy(method.teacher_rows) == pytest.approx(rows[1], abs=1e-6)
    assert numpy(method.constants) == pytest.approx(np.array(constants), rel=LOSS_FP32)


@pytest.mark.parametrize("norm", ["layernorm", "standardise", "whiten", "none"])
@pytest.mark.parametrize("widths", [(5, 7), (7, 5), (4, 4), (5, 2)])
@pytest.mark.filterwarnings("ignore:vkd")
def test_vkd(norm, widths) -> None:
    s, t = vectors(*widths)
    method = ready(VkD(norm=norm), s, t)
    expected = forms.vkd(*pooled(s, t), numpy(method.projector.weight), norm)
    assert terms(method, s, t)["vkd"] == pytest.approx(expected, rel=LOSS_FP32)


SHAPES = [((4, 4, 4), (6, 4, 4)), ((6, 5, 3), (8, 3, 5)), ((3, 1, 1), (9, 2, 2))]


@pytest.mark.parametrize(("ours", "theirs"), SHAPES)
@pytest.mark.parametrize("use_ae", ["auto", True])
def test_diffkd(ours, theirs, use_ae) -> None:
    s, t = maps([ours], [theirs])
    method = ready(DiffKD(use_ae=use_ae), s, t)
    given = terms(method, s, t)
    size = min(ours[1], theirs[1]), min(ours[2], theirs[2])
    x_s, x_t = (forms.resized(numpy(side.taps["stage.1:map"]), *size) for side in (s, t))
    draw = random(4)

    def draws(*shape: int) -> tuple[np.ndarray, ...]:
        times = torch.randint(1000, (BATCH,), generator=draw).numpy()
        return times, *(numpy(torch.randn(BATCH, *shape, generator=draw)) for _ in range(2))

    width = theirs[0] // 2 if use_ae is True else theirs[0]
    mapped = forms.diffkd(layers(method.features), x_s, x_t, draws(width, *size), flat=False, code=use_ae is True)
    z_s, z_t = (numpy(side.logits)[:, :, None, None] for side in (s, t))
    flat = forms.diffkd(layers(method.logits), z_s, z_t, draws(CLASSES, 1, 1), flat=True, code=False)
    match = ((mapped[0] - mapped[1]) ** 2).mean() + forms.diffkd_logits(flat[0], numpy(t.logits), 4.0)
    assert given["diffkd"] == pytest.approx(match, rel=LOSS_FP32)
    assert given["diffkd_noise"] == pytest.approx(mapped[2] + flat[2], rel=LOSS_FP32)
    assert ("diffkd_code" in given) == (use_ae is True)
    if use_ae is True:
        assert given["diffkd_code"] == pytest.approx(mapped[3], rel=LOSS_FP32)


@pytest.mark.parametrize("group", [6, 8, 4, 3])
def test_semckd(group) -> None:
    s, t = maps([(4, 6, 6), (5, 3, 3)], [(3, 5, 5), (4, 4, 2), (6, 2, 2)])
    method = ready(SemCKD(batch_size=group), s, t)
    sides = [[numpy(tap) for tap in side.taps.values()] for side in (s, t)]
    expected = forms.semckd(*sides, layers(method), group)
    assert terms(method, s, t)["semckd"] == pytest.approx(400 * expected, rel=LOSS_FP32)
