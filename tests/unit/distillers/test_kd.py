import pytest
import torch

from edgekd.distillers.base import Outputs, kl
from edgekd.distillers.ce import CE
from edgekd.distillers.kd import KD
from edgekd.errors import RecipeError


def test_weights_and_temperature(world) -> None:
    here = world()
    ce = here(CE())["ce"]
    terms = here(KD())
    assert torch.allclose(terms["ce"], 0.1 * ce)
    assert torch.allclose(terms["kd"], 0.9 * kl(here.student.logits, here.teacher.logits, 4.0))
    assert set(here(CE())) == {"ce"}


def test_kd_is_zero_when_student_is_teacher(world) -> None:
    here = world()
    here.student = Outputs(here.teacher.logits)
    assert here(KD())["kd"].abs() < 1e-6


def test_no_teacher_is_an_error_of_the_recipe(world) -> None:
    here = world()
    with pytest.raises(RecipeError, match="teacher"):
        KD()(here.student, None, here.target, here.progress)
