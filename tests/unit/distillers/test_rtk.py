import pytest
import torch
from tolerances import AFD_EQUIVALENCE, GRADIENT_FP32

from edgekd import models, registry
from edgekd.distillers.afd import AFD
from edgekd.distillers.base import Context, Outputs, Progress
from edgekd.distillers.rtk import RTK
from edgekd.errors import RecipeError
from edgekd.taps import tapped

AS_AFD = {
    "centre": False,
    "until": 1.0,
    "beta": 200.0,
    "attn_direction": "teacher_query",
    "select": "all",
    "dist_norm": "none",
    "sim_weight": 0.0,
}
BY_STUDENT = {"attn_direction": "student_query"}  # six teacher taps to choose from: the richer geometry of this world
PAIRS = [  # teacher, student, N_T, N_S, auto k, parameters (methods 3.6)
    ("resnet56", "resnet20", 27, 9, 3, 643_200),
    ("wrn_40_2", "wrn_16_2", 18, 6, 3, 543_488),
    ("wrn_40_2", "wrn_40_1", 18, 18, 2, 578_304),
    ("resnet110", "resnet32", 27, 15, 2, 674_944),
    ("resnet32x4", "resnet8x4", 15, 3, 5, 604_800),
]


def loss_of(method, here) -> torch.Tensor:
    return here(method)["rtk" if isinstance(method, RTK) else "afd"]


def alpha_of(method: RTK, here) -> torch.Tensor:
    cosine, _ = method.pairs(here.student, here.teacher)
    return method.alpha(here.student, here.teacher, cosine, here.progress.epoch)


def noise_of(name: str, reductions=("energy", "pooled")) -> tuple[list[str], Outputs]:
    generator = torch.Generator().manual_seed(0)
    network = models.build(name, classes=10, generator=generator).eval()
    points = models.taps(name, network)
    wanted = [(tap, reduction) for tap in points if tap.startswith("block.") for reduction in reductions]
    with tapped(network, points, wanted, (0.5,) * 3, (0.2,) * 3) as net, torch.no_grad():
        return list(points), Outputs(*net(torch.rand(2, 3, 32, 32, generator=generator)))


@pytest.mark.parametrize("shape", [{}, {"teacher": [(5, 8), (7, 2)]}, {"student": [(4, 8)]}, {"teacher": [(3, 4)]}])
@pytest.mark.parametrize("training", [True, False])
def test_with_afds_switches_it_is_afd(world, shape, training) -> None:
    here = world(**shape)
    afd = here.ready(AFD())
    here.seed = 5
    rtk = here.ready(RTK(**AS_AFD))
    rtk.load_state_dict(afd.state_dict())
    afd.train(training), rtk.train(training)
    ours, theirs = loss_of(rtk, here), loss_of(afd, here)
    assert torch.allclose(ours, theirs, rtol=AFD_EQUIVALENCE, atol=0)
    first = torch.autograd.grad(ours, list(rtk.parameters()), retain_graph=True)
    second = torch.autograd.grad(theirs, list(afd.parameters()))
    largest = max(float(gradient.abs().max()) for gradient in second)
    apart = max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True))
    assert apart <= GRADIENT_FP32 * largest


@pytest.mark.parametrize(("teacher", "student", "n_t", "n_s", "k", "parameters"), PAIRS)
def test_counts_and_afd_equivalence_on_the_real_pairs(teacher, student, n_t, n_s, k, parameters) -> None:
    (s_taps, s), (t_taps, t) = noise_of(student), noise_of(teacher)
    generator = torch.Generator().manual_seed(0)
    context = Context(torch.nn.Module(), None, s, t, torch.zeros(2).long(), 10, generator)
    methods = []
    for method in (RTK(**BY_STUDENT), AFD(), RTK(**AS_AFD)):
        wanted = method.wanted(s_taps, t_taps)
        assert [len(side) // 2 for side in wanted] == [n_s, n_t]
        method.setup(context)
        assert sum(parameter.numel() for parameter in method.parameters()) == parameters
        methods.append(method.eval())
    assert methods[0].top == k
    methods[2].load_state_dict(methods[1].state_dict())
    progress = Progress(0, 0, 0.0, generator)
    afd = methods[1](s, t, torch.zeros(2).long(), progress)["afd"]
    rtk = methods[2](s, t, torch.zeros(2).long(), progress)["rtk"]
    assert torch.allclose(afd, rtk, rtol=AFD_EQUIVALENCE, atol=0)


def test_every_teacher_tap_teaches_by_default(world) -> None:
    here = world()
    alpha = alpha_of(here.ready(RTK()), here)
    assert torch.allclose(alpha.sum(1), torch.ones(()), atol=1e-6)
    assert (alpha > 0).sum(1).max() == 2


@pytest.mark.parametrize("direction", ["student_query", "teacher_query"])
@pytest.mark.parametrize("select", ["topk", "all", "threshold", "argmax_ste", "stage_topk"])
def test_attention_sums_to_one_over_the_keys(world, select, direction) -> None:
    here = world()
    method = here.ready(RTK(select=select, attn_direction=direction))
    alpha = alpha_of(method, here)
    keys = 2 if direction == "student_query" else 1
    assert alpha.shape == (6, 3, 6)
    assert torch.allclose(alpha.sum(keys), torch.ones(()), atol=1e-6)
    if select == "topk":
        assert (alpha > 0).sum(keys).max() <= method.top
    assert torch.isfinite(loss_of(method, here))


def test_every_parameter_learns_when_k_is_two_or_more(world) -> None:
    here = world(batch=32)
    method = here.ready(RTK()).eval()
    loss_of(method, here).backward()
    assert [name for name, p in method.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    method.zero_grad()
    loss_of(method.train(), here).backward()
    # a bias before a BatchNorm has no gradient in train mode, whatever k is
    still = [name for name, p in method.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert all("bias" in name for name in still)


def test_attention_learns_nothing_when_k_is_one(world) -> None:
    here = world()
    method = here.ready(RTK())
    method.top = 1
    loss_of(method, here).backward()
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in method.parameters())
    assert here.student.taps["block.1:energy"].grad.abs().sum() > 0


def test_attention_learns_nothing_when_it_may_not(world) -> None:
    here = world()
    method = here.ready(RTK(attn_grad=False))
    loss_of(method, here).backward()
    assert all(p.grad is None for p in method.parameters())


def test_the_order_of_the_batch_does_not_matter(world) -> None:
    here = world()
    method = here.ready(RTK()).eval()
    alpha, loss = alpha_of(method, here), loss_of(method, here)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for name in ("student", "teacher"):
        side = getattr(here, name)
        setattr(here, name, Outputs(side.logits[order], {key: tap[order] for key, tap in side.taps.items()}))
    assert torch.allclose(alpha_of(method, here), alpha[order], atol=1e-6)
    assert torch.allclose(loss_of(method, here), loss, rtol=1e-6)


@pytest.mark.parametrize(
    "shape",
    [
        {"student": [(4, 8), (4, 8), (6, 4), (6, 4)], "teacher": [(5, 8), (7, 4)]},
        {"teacher": [(5, 8)]},
        {"student": [(4, 8)]},
        {"student": [(4, 9), (4, 5)], "teacher": [(5, 7), (5, 3), (7, 11)]},
        {"batch": 1},
    ],
)
@pytest.mark.parametrize("value", ["at", "channel", "both"])
def test_odd_shapes(world, shape, value) -> None:
    here = world(**shape)
    method = here.ready(RTK(value=value, **BY_STUDENT))
    assert method.top == min(len(method.teacher_taps), method.top)
    assert shape.get("teacher") != [(5, 8)] or method.top == 1
    method.train(shape.get("batch") != 1)
    loss = loss_of(method, here)
    assert torch.isfinite(loss) and loss >= 0
    assert torch.allclose(alpha_of(method, here).sum(2), torch.ones(()), atol=1e-6)


@pytest.mark.parametrize(
    "switch",
    [
        {"dist_norm": "none"},
        {"sim_weight": 0.0},
        {"pos_embed": False},
        {"bilinear": "shared"},
        {"bilinear": "none"},
        {"value": "channel"},
        {"value": "both"},
        {"pair_loss": "smooth_l1"},
        {"pair_loss": "cosine"},
        {"rescale": True},
        {"centre": False},
        {"k": 4},
        {"select": "all"},
        {"select": "threshold"},
        {"select": "argmax_ste"},
        {"attn_direction": "teacher_query"},
        {"key_warmup_epochs": 1},
    ],
)
def test_every_switch_changes_the_loss(world, switch) -> None:
    here = world()
    plain, other = here.ready(RTK(**BY_STUDENT)), here.ready(RTK(**{**BY_STUDENT, **switch}))
    assert not torch.allclose(loss_of(plain, here), loss_of(other, here), rtol=1e-4, atol=0)


def test_rescale_is_teachers_over_students(world) -> None:
    here = world()
    scaled, plain = here.ready(RTK(rescale=True)), here.ready(RTK())
    assert torch.allclose(loss_of(scaled, here), 2 * loss_of(plain, here))


def test_relative_distances_have_one_mean_for_every_key(world) -> None:
    here = world()
    method = here.ready(RTK())
    _, distance = method.pairs(here.student, here.teacher)
    uniform = torch.full_like(distance, 1 / 6)
    assert torch.allclose(method.loss(uniform, distance), 3 * distance.mean(), rtol=1e-5)


def test_features_teach_until_their_part_of_the_run(world) -> None:
    here = world()
    method = here.ready(RTK(until=0.5))
    terms = {}
    for fraction in (0.49, 0.5):
        here.progress = Progress(0, 0, fraction, torch.Generator())
        terms[fraction] = here(method)
    assert terms[0.49]["rtk"] > 0 and terms[0.5]["rtk"] == 0
    for name in ("ce", "kd"):
        assert terms[0.49][name] == terms[0.5][name] > 0


def test_all_keys_count_while_warming_up(world) -> None:
    here = world()
    method = here.ready(RTK(key_warmup_epochs=2, **BY_STUDENT))
    for epoch, kept in ((0, 6), (1, 6), (2, method.top)):
        here.progress = Progress(epoch, 0, 0.0, torch.Generator())
        assert (alpha_of(method, here) > 0).sum(2).max() == kept


def test_stage_mask_keeps_pairs_of_one_resolution(world) -> None:
    here = world(teacher=[(5, 8), (5, 8), (7, 4), (7, 4)])
    alpha = alpha_of(here.ready(RTK(stage_mask=True, **BY_STUDENT)), here)
    assert (alpha[:, :2, 2:] == 0).all() and (alpha[:, 2, :2] == 0).all()
    assert torch.allclose(alpha.sum(2), torch.ones(()), atol=1e-6)
    with pytest.raises(RecipeError, match=r"distill\.stage_mask"):
        world(teacher=[(5, 8)]).ready(RTK(stage_mask=True, **BY_STUDENT))


def test_stage_topk_selects_in_each_resolution(world) -> None:
    here = world()
    method = here.ready(RTK(select="stage_topk", k=2, **BY_STUDENT))
    alpha = alpha_of(method, here) > 0
    assert alpha[:, :, :3].sum(2).unique().tolist() == [2]
    assert alpha[:, :, 3:5].sum(2).unique().tolist() == [2]
    assert alpha[:, :, 5:].sum(2).unique().tolist() == [1]


def test_diagnostics_is_the_mean_attention(world) -> None:
    here = world()
    method = here.ready(RTK())
    alpha = alpha_of(method, here).mean(0).detach().numpy()
    here(method)
    assert abs(method.diagnostics()["attention"] - alpha).max() < 1e-6
    assert method.diagnostics() == {}


def test_bad_combinations_name_the_key(world) -> None:
    with pytest.raises(RecipeError, match=r"distill\.k: k is 3 and select is all"):
        RTK(k=3, select="all")
    with pytest.raises(RecipeError, match=r"distill\.k: k is 7 and there are 6 keys"):
        world().ready(RTK(k=7, **BY_STUDENT))
    with pytest.raises(RecipeError, match=r"distill\.k: k is 4 and there are 3 keys"):
        world().ready(RTK(k=4))
    with pytest.raises(RecipeError, match=r"distill\.sim_weight"):
        world(student=[(4, 8)]).ready(RTK(sim_weight=0.0))
    world(student=[(4, 8)]).ready(RTK(sim_weight=0.0, dist_norm="none"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("beta", -1),
        ("k", 1),
        ("temperature", 0),
        ("select", "best"),
        ("value", "maps"),
        ("qk_dim", 0),
        ("until", 0),
        ("betta", 1),
    ],
)
def test_the_schema_refuses(key, value) -> None:
    with pytest.raises(RecipeError, match=rf"distill\.{key}"):
        registry.check("distillers", "rtk", {key: value}, "distill")


def test_the_schema_takes() -> None:
    for args in ({}, {"beta": 50}, {"k": "auto"}, {"k": 3}, AS_AFD):
        registry.check("distillers", "rtk", args, "distill")
