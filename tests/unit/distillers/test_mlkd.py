import pytest
import torch

from edgekd import registry
from edgekd.distillers.base import Outputs
from edgekd.distillers.mlkd import MLKD


@pytest.fixture
def views(world):
    here = world(batch=12)
    here.target = here.target[:6]
    return here


def test_what_is_said_of_it() -> None:
    said = registry.plugins("distillers")["mlkd"].attributes
    assert said["views"] == 2 and said["cached"] is None and said["baseline"] is None


@pytest.mark.parametrize("compat", [False, True])
def test_class_and_batch_terms_see_the_weak_view_alone(views, compat) -> None:
    method = MLKD(mlkd_compat=compat)
    plain = method(views.student, views.teacher, views.target, views.progress)
    strong = torch.cat([views.student.logits[:6], views.student.logits[6:] * 2])
    other = method(Outputs(strong), views.teacher, views.target, views.progress)
    same = {name for name in plain if torch.equal(plain[name], other[name])}
    assert same == {"mlkd_class", "mlkd_batch"}


def test_both_views_have_the_labels_of_their_image(views) -> None:
    ce = MLKD()(views.student, views.teacher, views.target, views.progress)["ce"]
    twice = torch.nn.functional.cross_entropy(views.student.logits, torch.cat([views.target, views.target]))
    assert torch.allclose(ce, 0.1 * 2 * twice)


def test_the_strong_term_is_on_strong_logits_unless_it_shall_be_as_released(views) -> None:
    weak = views.student.logits[:6].detach()
    same = Outputs(torch.cat([views.teacher.logits[:6], views.student.logits[6:]]).detach())
    right = MLKD()(same, views.teacher, views.target, views.progress)["mlkd_instance"]
    released = MLKD(mlkd_compat=True)(same, views.teacher, views.target, views.progress)["mlkd_instance"]
    assert 0 < released < right  # two of five temperatures see the weak view, which has nothing to learn here
    assert not torch.equal(weak, same.logits[:6])
