import pytest
import torch

from edgekd.distillers.base import Outputs, Progress
from edgekd.distillers.dkd import DKD


def test_the_target_of_the_teacher_does_not_touch_the_others_term(world) -> None:
    here = world()
    plain = here(DKD())
    surer = here.teacher.logits.detach().clone()
    surer[torch.arange(len(surer)), here.target] += 3
    here.teacher = Outputs(surer)
    other = here(DKD())
    assert torch.allclose(plain["dkd_nckd"], other["dkd_nckd"])
    assert not torch.allclose(plain["dkd_tckd"], other["dkd_tckd"], rtol=1e-2)


def test_each_term_has_its_weight_and_the_warm_up_is_of_both(world) -> None:
    here = world()
    early = here(DKD())
    for name, arguments in (("dkd_tckd", {"alpha": 3.0}), ("dkd_nckd", {"beta": 6.0}), ("ce", {"ce_weight": 3.0})):
        assert torch.allclose(here(DKD(**arguments))[name], 3 * early[name])
    here.progress = Progress(19, 0, 0.0, torch.Generator())
    late = here(DKD())
    assert torch.allclose(late["dkd_tckd"], 20 * early["dkd_tckd"])
    assert torch.allclose(late["dkd_nckd"], 20 * early["dkd_nckd"])
    assert torch.equal(late["ce"], early["ce"])
    assert torch.equal(here(DKD(warmup_epochs=0))["dkd_nckd"], late["dkd_nckd"])


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_sure_networks_have_finite_losses_and_gradients(world, scale) -> None:
    here = world()
    for side in (here.student, here.teacher):
        side.logits.data *= scale
    terms = here(DKD())
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(term) for term in terms.values())
    assert torch.isfinite(here.student.logits.grad).all()
