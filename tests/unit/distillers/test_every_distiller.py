"""What holds of every method that is found."""

import math

import pytest
import torch

from edgekd import registry

NAMES = sorted(registry.plugins("distillers"))


def test_the_methods_of_this_release_are_found() -> None:
    assert {"afd", "ce", "kd", "rtk"} <= set(NAMES)
    assert "attention" not in NAMES
    assert registry.plugins("distillers")["rtk"].attributes["reconstruction"] is True
    assert "reconstruction" in registry.plugins("distillers")["rtk"].summary
    assert registry.plugins("distillers")["ce"].attributes["needs_teacher"] is False


@pytest.fixture(params=NAMES)
def method(request, world):
    here = world()
    return here.ready(registry.construct("distillers", request.param, {})), here


def test_losses_are_finite_not_negative_and_move_the_student_only(method) -> None:
    distiller, here = method
    terms = here(distiller)
    assert "ce" in terms
    assert all(math.isfinite(float(term.detach())) and float(term.detach()) >= 0 for term in terms.values())
    assert all(term.shape == () for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert here.student.logits.grad is not None and here.student.logits.grad.abs().sum() > 0
    taken = [key for key, tap in here.student.taps.items() if tap.grad is not None and tap.grad.abs().sum() > 0]
    assert taken == (list(here.student.taps) if set(terms) - {"ce", "kd"} else [])
    assert here.teacher.logits.grad is None
    assert all(tap.grad is None for tap in here.teacher.taps.values())


def test_one_step_changes_every_parameter_group(method) -> None:
    distiller, here = method
    groups = distiller.parameter_groups()
    mine = list(distiller.parameters())
    assert bool(groups) == bool(mine)
    if not mine:
        return
    before = [parameter.detach().clone() for parameter in mine]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    torch.stack(list(here(distiller).values())).sum().backward()
    optimizer.step()
    changed = [not torch.equal(old, new) for old, new in zip(before, mine, strict=True)]
    assert sum(changed) >= len(changed) - 2  # a teacher that no query selected may stand still


def test_equal_seeds_make_equal_modules_and_leave_the_global_generator_alone(method, world) -> None:
    distiller, here = method
    again = type(distiller)()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    here.ready(again)
    assert torch.equal(state, torch.get_rng_state())
    first, second = distiller.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_student_is_deployed_as_it_is(method) -> None:
    distiller, _ = method
    student = torch.nn.Linear(2, 2)
    keys = list(student.state_dict())
    assert distiller.deploy(student) is student
    assert list(student.state_dict()) == keys


def test_half_precision_networks_change_nothing_inside(method) -> None:
    distiller, here = method
    distiller.eval()
    plain = here(distiller)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = here(distiller)
    assert all(torch.equal(plain[name], cast[name]) for name in plain)


def test_smoothed_labels_are_taken(method) -> None:
    distiller, here = method
    distiller.eval()
    hard = here(distiller)["ce"]
    here.target = torch.nn.functional.one_hot(here.target, 10).float()
    assert torch.allclose(hard, here(distiller)["ce"])
