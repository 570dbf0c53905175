"""What holds of every method that is found."""

import math

import pytest
import torch
from method_arguments import ARGUMENTS, SHIPPED

from edgekd import registry
from edgekd.distillers.base import Distiller

NAMES = sorted(registry.plugins("distillers"))
LEAST = {"dist": 0.05}  # 1e-8 beside a product of norms shows where an untrained network hardly tells images apart
# Tensors that may stand still: a teacher that no query selected; of diffkd the biases before a BatchNorm, which its
# published numbers of parameters count.
# hmat's rows are normalised: the scale of its BatchNorm moves once the shift has.
IDLE = {"afd": 2, "rtk": 2, "sum": 2, "diffkd": 18, "hmat": 1}


def construct(name: str) -> Distiller:
    return registry.construct("distillers", name, ARGUMENTS.get(name, {}))


@pytest.fixture(params=NAMES)
def method(request, pair):
    here = pair()
    return here.ready(construct(request.param)), here, request.param


def test_the_methods_of_this_release_are_found() -> None:
    papers = {"rtk", "afd", "kdfm", "hmat", "diffkd", "vkd"}
    baselines = {"ce", "kd", "fitnet", "at", "sp", "rkd", "pkt", "vid", "nst", "crd", "reviewkd", "dkd", "ls", "mlkd"}
    assert set(NAMES) >= papers | baselines | {"dist", "simkd", "semckd", "ofd", "sum"}
    known = registry.plugins("distillers")
    rebuilt = {name for name in NAMES if known[name].attributes.get("reconstruction")}
    assert rebuilt == {"rtk", "kdfm", "hmat"}
    assert all("reconstruction" in known[name].summary for name in rebuilt)
    assert [name for name in NAMES if not known[name].attributes.get("needs_teacher", True)] == ["ce"]


def test_losses_are_finite_not_negative_and_move_the_student_only(method) -> None:
    distiller, here, name = method
    student, teacher = here.seen
    terms = here(distiller)
    assert name in ("sum",) or any(term in ("ce", "kd") or term.startswith(name) for term in terms)
    assert all(math.isfinite(float(term.detach())) and float(term.detach()) >= 0 for term in terms.values())
    assert all(term.shape == () for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    moved = [key for key, tap in student.taps.items() if tap.grad is not None and tap.grad.abs().sum() > 0]
    assert moved == list(student.taps)
    answered = student.logits.grad is not None and student.logits.grad.abs().sum() > 0
    assert answered or name == "kdfm" or not {"ce", "kd"} & set(terms)  # kdfm answers with the borrowed classifier
    assert moved or answered
    assert teacher.logits.grad is None
    assert all(tap.grad is None for tap in teacher.taps.values())
    assert all(parameter.grad is None for parameter in here.teacher.parameters())


def test_a_method_without_parameters_asks_nothing_of_a_student_that_is_its_teacher(method, pair) -> None:
    distiller, _, name = method
    if list(distiller.parameters()):
        pytest.skip(f"{name} has parameters: its projection of the student is not the teacher")
    same = pair(alike=True)
    terms = same(same.ready(construct(name)))
    assert all(float(term.detach()) < LEAST.get(name, 1e-4) for key, term in terms.items() if not key.endswith("ce"))


def test_one_step_changes_every_own_parameter(method) -> None:
    distiller, here, name = method
    groups, others = distiller.parameter_groups(), distiller.optimizers()
    listed = [p for group in groups for p in group["params"]]
    listed += [p for other in others.values() for group in other.param_groups for p in group["params"]]
    mine = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
    assert sorted(map(id, listed)) == sorted(map(id, mine))
    if not mine:
        return
    before = [parameter.detach().clone() for parameter in mine]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    torch.stack(list(here(distiller).values())).sum().backward()
    for each in (optimizer, *others.values()):
        each.step()
    changed = [not torch.equal(old, new) for old, new in zip(before, mine, strict=True)]
    assert sum(changed) >= len(changed) - IDLE.get(name, 0)


def test_equal_seeds_make_equal_modules_and_leave_the_global_generator_alone(method) -> None:
    distiller, here, name = method
    again = construct(name)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    here.ready(again)
    assert torch.equal(state, torch.get_rng_state())
    first, second = distiller.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_step_leaves_the_global_generator_alone(method) -> None:
    distiller, here, _ = method
    torch.manual_seed(7)
    state = torch.get_rng_state()
    here(distiller)
    assert torch.equal(state, torch.get_rng_state())


def test_a_step_can_be_taken_again_from_its_state(method) -> None:
    distiller, here, name = method
    here(distiller)
    other = here.ready(construct(name), seed=1)
    other.load_state_dict(distiller.state_dict())
    first, second = here(distiller), here(other)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_student_is_deployed_as_it_is_but_by_methods_that_ship_layers(method) -> None:
    distiller, here, name = method
    keys = list(here.student.state_dict())
    deployed = distiller.deploy(here.student)
    assert (deployed is here.student) == (name not in SHIPPED)
    assert list(here.student.state_dict()) == keys


def test_half_precision_networks_change_nothing_inside(method) -> None:
    distiller, here, _ = method
    distiller.eval()
    plain = here(distiller)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = here(distiller)
    assert all(torch.equal(plain[name], cast[name]) for name in plain)


def test_smoothed_labels_are_taken(method) -> None:
    distiller, here, _ = method
    distiller.eval()
    hard = here(distiller)
    here.target = torch.nn.functional.one_hot(here.target, 10).float()
    soft = here(distiller)
    assert all(torch.allclose(hard[name], soft[name]) for name in hard)
