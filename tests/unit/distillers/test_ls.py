import pytest
import torch

from edgekd.distillers.base import Outputs
from edgekd.distillers.dkd import DKD
from edgekd.distillers.kd import KD
from edgekd.distillers.logits import standardized
from edgekd.distillers.ls import LS


@pytest.mark.parametrize("of", ["kd", "dkd"])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_scale_and_shift_of_logits_do_not_matter(world, of, side) -> None:
    here = world()
    plain = here(LS(of=of))
    n = len(here.target)
    scales, shifts = torch.linspace(0.2, 9, n)[:, None], torch.linspace(-30, 30, n)[:, None]
    setattr(here, side, Outputs(scales * getattr(here, side).logits + shifts))
    other = here(LS(of=of))
    assert torch.allclose(plain["ls"], other["ls"], rtol=1e-4)  # a shift of 30 costs two digits of the logits
    assert torch.allclose(plain["ce"], other["ce"]) == (side == "teacher")


@pytest.mark.parametrize(("of", "wrapped"), [("kd", KD(temperature=2.0)), ("dkd", DKD(temperature=2.0))])
def test_on_standardized_logits_it_is_what_it_wraps(world, of, wrapped) -> None:
    here = world()
    ours = here(LS(of=of))["ls"]
    here.student, here.teacher = (Outputs(standardized(side.logits)) for side in (here.student, here.teacher))
    terms = here(wrapped)
    theirs = terms["kd"] / 0.9 if of == "kd" else terms["dkd_tckd"] + terms["dkd_nckd"]
    assert torch.allclose(ours, 9 * theirs, rtol=1e-4)


def test_rows_have_mean_zero_and_deviation_one_and_equal_logits_none() -> None:
    rows = standardized(torch.tensor([[1.0, 5.0, -3.0], [2.0, 2.0, 2.0]]))
    assert torch.allclose(rows[0], torch.tensor([0.0, 1.0, -1.0]), atol=1e-6)
    assert torch.equal(rows[1], torch.zeros(3))
