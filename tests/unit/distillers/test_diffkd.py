import pytest
import torch
from tolerances import DENOISED_FP32, SCHEDULE_FP32
from torch import nn

from edgekd.distillers.base import Context, Outputs, Progress
from edgekd.distillers.diffkd import DiffKD
from edgekd.distillers.diffusion import Branch, denoise, noised, signal_kept
from edgekd.errors import RecipeError


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Student's, teacher's and the autoencoder's channels, parameters (methods 7.6).
COUNTS = [
    (64, 64, None, 105_906),
    (64, 128, None, 248_802),
    (128, 128, None, 256_994),
    (256, 256, None, 694_722),
    (256, 256, 128, 339_554),
    (512, 512, 1024, 7_644_418),
    (1024, 2048, 1024, 11_315_970),
]


@pytest.mark.parametrize(("student", "teacher", "code", "parameters"), COUNTS)
def test_parameters_of_the_map_branch(student, teacher, code, parameters) -> None:
    with torch.device("meta"):
        assert size(Branch(student, teacher, code=code)) == parameters


def test_parameters_of_the_logits_branch() -> None:
    assert size(Branch(100, 100, flat=True)) == 352_302


def test_schedule() -> None:
    kept = signal_kept()
    known = {0: 0.99990, 100: 0.895141, 200: 0.656347, 300: 0.394011, 400: 0.193572, 999: 4.0358e-5}
    assert len(kept) == 1000
    for time, value in known.items():
        assert float(kept[time]) == pytest.approx(value, rel=SCHEDULE_FP32)


@pytest.mark.parametrize(("steps", "times"), [(5, [400, 300, 200, 100, 0]), (1, [0]), (2, [250, 0]), (500, None)])
def test_the_true_noise_leads_back_to_the_start(steps, times) -> None:
    random = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 3, 6, 4, 4, generator=random)
    kept, seen = signal_kept(), []

    def perfect(values: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        assert len(at.unique()) == 1 and torch.allclose(values, noised(clean, noise, kept[at[0]]), atol=1e-4)
        seen.append(int(at[0]))
        return noise

    first = (steps - 1) * (500 // steps)
    found = denoise(perfect, noised(clean, noise, kept[first]), kept, steps)
    assert len(seen) == steps and (times is None or seen == times)
    assert (found - clean).abs().max() < DENOISED_FP32
    wrong = denoise(lambda values, at: torch.zeros_like(values), noised(clean, noise, kept[first]), kept, steps)
    assert steps == 1 or (wrong - clean).abs().max() > 0.1


def outputs(shape: tuple[int, ...], tap: str, seed: int) -> Outputs:
    random = torch.Generator().manual_seed(seed)
    maps = torch.rand(4, *shape, generator=random).requires_grad_()
    return Outputs(torch.randn(4, 10, generator=random).requires_grad_(), {f"{tap}:map": maps})


def ready(student=(8, 4, 4), teacher=(16, 4, 4), **arguments) -> tuple[DiffKD, Outputs, Outputs]:
    method = DiffKD(**arguments)
    method.wanted(["stage.1", "last", "pooled"], ["stage.1", "last", "pooled"])
    s, t = outputs(student, "last", 1), outputs(teacher, "last", 2)
    method.setup(Context(nn.Module(), None, s, t, torch.zeros(4).long(), 10, torch.Generator().manual_seed(3)))
    return method, s, t


def terms(method: DiffKD, s: Outputs, t: Outputs, seed: int = 5) -> dict[str, torch.Tensor]:
    return method(s, t, torch.zeros(4).long(), Progress(0, 0, 0.0, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize(
    ("channels", "arguments", "code"),
    [
        (64, {}, None),
        (128, {}, None),
        (256, {}, 128),
        (256, {"use_ae": False}, None),
        (64, {"use_ae": True}, 32),
        (64, {"ae_channels": 24}, 24),
        (512, {"use_ae": True, "ae_channels": 1024}, 1024),
    ],
)
def test_when_the_autoencoder_is_on(channels, arguments, code) -> None:
    method, s, t = ready(teacher=(channels, 2, 2), **arguments)
    assert (method.features.encoder is None) == (code is None)
    assert code is None or method.features.encoder[0].out_channels == code
    assert ("diffkd_code" in terms(method, s, t)) == (code is not None)


def test_channels_of_no_autoencoder_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"distill\.ae_channels: 24 and use_ae is false"):
        DiffKD(use_ae=False, ae_channels=24)


@pytest.mark.parametrize(
    ("student", "teacher", "taps"),
    [
        (["stage.1", "last"], ["stage.1", "last"], ("last", "last")),
        (["stage.1", "stage.2"], ["stage.1", "last"], ("stage.2", "stage.1")),
        (["stage.1", "stage.2", "stage.3", "last"], ["stage.1", "stage.2"], ("stage.3", "stage.2")),
    ],
)
def test_which_map(student, teacher, taps) -> None:
    wanted = DiffKD().wanted(student, teacher)
    assert wanted == ([(taps[0], "map")], [(taps[1], "map")])


def test_a_network_of_tokens_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"distill\.use: the teacher has no feature maps"):
        DiffKD().wanted(["stage.1", "last", "pooled"], ["pooled"])


def test_the_code_learns_from_its_own_loss_alone() -> None:
    method, s, t = ready(use_ae=True)
    given = terms(method, s, t)
    (given["diffkd"] + given["diffkd_noise"]).backward(retain_graph=True)
    assert all(p.grad is None for p in [*method.features.encoder.parameters(), *method.features.decoder.parameters()])
    given["diffkd_code"].backward()
    assert method.features.encoder[0].weight.grad.abs().sum() > 0
    assert t.taps["last:map"].grad is None and t.logits.grad is None


def test_the_predictor_learns_from_the_student_too() -> None:
    method, s, t = ready()
    given = terms(method, s, t)
    given["diffkd"].backward(retain_graph=True)
    for branch in (method.features, method.logits):
        assert branch.predictor[0] is not None
        assert all(p.grad is not None for p in branch.predictor.parameters())
        assert branch.level[3].weight.grad.abs().sum() > 0 and branch.entry.weight.grad.abs().sum() > 0
    assert s.taps["last:map"].grad.abs().sum() > 0 and s.logits.grad.abs().sum() > 0
    before = method.features.times.weight.grad.clone()
    given["diffkd_noise"].backward()
    assert not torch.equal(before, method.features.times.weight.grad)


def test_noise_hangs_on_the_generator_alone() -> None:
    method, s, t = ready()
    method.eval()
    first, again, other = terms(method, s, t), terms(method, s, t), terms(method, s, t, seed=6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["diffkd"], other["diffkd"]) and torch.equal(first["ce"], other["ce"])


@pytest.mark.parametrize("teacher", [(9, 7, 5), (6, 1, 1), (3, 2, 8)])
def test_odd_sizes(teacher) -> None:
    method, s, t = ready(teacher=teacher)
    assert all(torch.isfinite(term) for term in terms(method, s, t).values())
