import copy

import pytest
import torch
from networks import settled, telling
from torch import nn

from edgekd.distillers import kdfm
from edgekd.distillers.base import Progress
from edgekd.distillers.kdfm import KDFM
from edgekd.taps import tapped


def step(method: KDFM, here, epoch: int = 9) -> dict[str, torch.Tensor]:
    return method(*here.seen, here.target, Progress(epoch, epoch, 0.0, torch.Generator()))


def vectors(method: KDFM) -> list[torch.Tensor]:
    return [buffer.clone() for name, buffer in method.named_buffers() if name.endswith(("_u", "_v"))]


def gradients(loss: torch.Tensor, parameters) -> list[torch.Tensor | None]:
    return list(torch.autograd.grad(loss, list(parameters), retain_graph=True, allow_unused=True))


@pytest.mark.parametrize("adv", ["lsgan", "hinge", "bce"])
def test_each_side_of_the_contest_moves_itself_alone(pair, adv) -> None:
    here = pair()
    method = here.ready(KDFM(adv=adv))
    terms = step(method, here)
    tap = [here.seen[0].taps["last:map"]]
    for name in ("ce", "kdfm_map", "kdfm_adv"):
        assert gradients(terms[name], tap)[0].abs().sum() > 0
        assert all(gradient is None for gradient in gradients(terms[name], method.discriminator.parameters()))
    assert gradients(terms["kdfm_disc"], tap) == [None]
    assert all(gradient is None for gradient in gradients(terms["kdfm_disc"], method.adapter.parameters()))
    assert all(
        gradient.abs().sum() > 0 for gradient in gradients(terms["kdfm_disc"], method.discriminator.parameters())
    )


def test_one_backward_is_what_two_would_be(pair) -> None:
    here = pair()
    method = here.ready(KDFM())
    terms = step(method, here)
    apart = gradients(terms["kdfm_disc"], method.discriminator.parameters())
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(method.discriminator.parameters(), apart, strict=True))


def test_the_adversary_learns_to_tell_and_the_student_to_fool() -> None:
    from edgekd.distillers.discriminator import Discriminator, telling

    random = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    judge = Discriminator(8)
    real, fake = torch.rand((2, 32, 8, 4, 4), generator=random)
    real[:, :4] += 1
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-2, betas=(0.5, 0.999))
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        weights = judge.weights()
        loss = telling("lsgan", judge(real, weights), judge(fake, weights))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 4


def test_one_power_iteration_a_step_and_none_in_eval_mode(pair) -> None:
    here = pair()
    method = here.ready(KDFM())
    single = copy.deepcopy(method)
    single.discriminator.weights()
    before = vectors(method)
    step(method, here)
    after = vectors(method)
    assert not all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert all(torch.equal(once, new) for once, new in zip(vectors(single), after, strict=True))
    step(method.eval(), here)
    assert all(torch.equal(old, new) for old, new in zip(after, vectors(method), strict=True))


def test_weights_have_norm_one_and_their_state_survives(pair) -> None:
    here = pair()
    method = here.ready(KDFM())
    for _ in range(3):
        step(method, here)
    for weight, _ in method.eval().discriminator.weights():
        assert float(torch.linalg.matrix_norm(weight.detach().flatten(1), 2)) == pytest.approx(1, abs=0.1)
    other = here.ready(KDFM(), seed=5).eval()
    assert not torch.equal(step(other, here)["kdfm_disc"], step(method, here)["kdfm_disc"])
    other.load_state_dict({name: value.clone() for name, value in method.state_dict().items()})
    for mode in (False, True, True):
        first, second = step(method.train(mode), here), step(other.train(mode), here)
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_discriminator_that_wins_is_left_alone(pair, monkeypatch) -> None:
    here = pair()
    method = here.ready(KDFM())
    progress = Progress(0, 0, 0.0, torch.Generator())
    torch.stack(list(step(method, here).values())).sum().backward()
    method.after_backward(progress)
    assert all(p.grad is not None for p in method.discriminator.parameters())
    monkeypatch.setattr(kdfm, "ENOUGH", 100.0)
    torch.stack(list(step(method, here).values())).sum().backward()
    method.after_backward(progress)
    assert all(p.grad is None for p in method.discriminator.parameters())
    assert all(p.grad is not None for p in method.adapter.parameters())
    shown = method.diagnostics()
    assert 0 <= shown["discriminator_accuracy"] <= 1
    assert shown["discriminator_trained"] == 0.5
    assert method.diagnostics() == {}


@pytest.mark.parametrize(("other", "trained"), [(0.0, False), (10.0, True)])
def test_all_processes_decide_alike_by_their_mean_loss(pair, monkeypatch, other, trained) -> None:
    here = pair()
    method = here.ready(KDFM())
    torch.stack(list(step(method, here).values())).sum().backward()
    monkeypatch.setattr(kdfm, "ENOUGH", 0.6 * float(method.told[-1][1]))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda loss: loss.add_(other))
    own = method.told[-1].clone()
    method.after_backward(Progress(0, 0, 0.0, torch.Generator()))
    assert all((p.grad is not None) == trained for p in method.discriminator.parameters())
    assert torch.equal(method.told[-1], own)


def test_its_own_optimizer_has_the_discriminator_and_the_students_the_rest(pair) -> None:
    method = pair().ready(KDFM())
    (own,) = method.optimizers().values()
    listed = {id(p) for group in own.param_groups for p in group["params"]}
    assert listed == {id(p) for p in method.discriminator.parameters()}
    assert (own.defaults["lr"], own.defaults["betas"]) == (2e-4, (0.5, 0.999))
    rest = {id(p) for group in method.parameter_groups() for p in group["params"]}
    assert rest == {id(p) for p in method.adapter.parameters()}


@pytest.mark.parametrize(("epoch", "part"), [(0, 0.0), (2, 0.4), (5, 1.0), (50, 1.0)])
def test_the_adversarial_weight_rises(pair, epoch, part) -> None:
    here = pair()
    method = here.ready(KDFM()).eval()
    assert torch.allclose(step(method, here, epoch)["kdfm_adv"], part * step(method, here, 5)["kdfm_adv"])
    assert torch.equal(
        step(here.ready(KDFM(ramp_epochs=0)).eval(), here, 0)["kdfm_adv"], step(method, here, 5)["kdfm_adv"]
    )


@pytest.mark.parametrize(
    ("switch", "terms"),
    [
        ({}, {"ce", "kdfm_map", "kdfm_adv", "kdfm_disc"}),
        ({"adv": "none"}, {"ce", "kdfm_map"}),
        ({"fm_loss": "none"}, {"ce", "kdfm_adv", "kdfm_disc"}),
        ({"kd_weight": 0.9}, {"ce", "kd", "kdfm_map", "kdfm_adv", "kdfm_disc"}),
    ],
)
def test_terms(pair, switch, terms) -> None:
    here = pair()
    assert set(step(here.ready(KDFM(**switch)), here)) == terms


@pytest.mark.parametrize("share", ["frozen", "finetune", "own"])
def test_whose_classifier(pair, share) -> None:
    here = pair()
    method = here.ready(KDFM(share_classifier=share))
    teachers = here.teacher.classifier.weight
    assert torch.equal(method.classifier.weight, teachers) == (share != "own")
    assert method.classifier.weight.data_ptr() != teachers.data_ptr()
    listed = {id(p) for group in method.parameter_groups() for p in group["params"]}
    assert (id(method.classifier.weight) in listed) == (share != "frozen")
    assert teachers.requires_grad


def test_equal_shapes_need_no_adapter(pair) -> None:
    here = pair(alike=True)
    method = here.ready(KDFM()).eval()
    assert len(method.adapter) == 0
    assert float(step(method, here)["kdfm_map"].detach()) == 0
    assert len(pair().ready(KDFM()).adapter) == 3


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("share", ["frozen", "own"])
def test_logits_while_training_are_those_of_the_deployed_network(pair, alike, share) -> None:
    here = pair(alike=alike)
    method = here.ready(KDFM(share_classifier=share))
    method.eval()
    with tapped(here.student, here.sides[0], [("last", "map")], (0.0,) * 3, (1.0,) * 3) as watched, torch.no_grad():
        _, taps = watched(here.images)
    settled(method.adapter, taps["last:map"], torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = method.classifier(method.adapter(taps["last:map"]).mean((2, 3)))
        deployed = method.deploy(here.student)
        found = deployed.eval()(here.images)
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
    assert telling(found)
    assert isinstance(deployed.classifier, nn.Linear) and deployed.classifier is not here.student.classifier
    extra = sum(p.numel() for part in (method.adapter, method.classifier) for p in part.parameters())
    plain = sum(p.numel() for p in here.student.parameters()) - sum(
        p.numel() for p in here.student.classifier.parameters()
    )
    assert sum(p.numel() for p in deployed.parameters()) == plain + extra
