"""Several methods at once."""

import pytest
import torch

from edgekd import registry
from edgekd.errors import RecipeError


def construct(use, **args):
    return registry.construct("distillers", use, args)


def test_terms_are_those_of_the_first_and_the_others_own(pair) -> None:
    here = pair()
    both = here.ready(construct("sum", of=[{"use": "kd"}, {"use": "at", "weight": 0.5}]))
    together = here(both)
    kd, at = here(here.ready(construct("kd"))), here(here.ready(construct("at")))
    assert list(together) == ["ce", "kd", "at"]
    assert torch.equal(together["ce"], kd["ce"]) and torch.equal(together["kd"], kd["kd"])
    assert torch.allclose(together["at"], 0.5 * at["at"])


def test_one_method_twice_keeps_its_terms_apart(pair) -> None:
    here = pair()
    both = here.ready(construct("sum", of=[{"use": "at"}, {"use": "at", "weight": 2.0}]))
    terms = here(both)
    assert torch.allclose(terms["at2_at"], 2 * terms["at"])


def test_a_member_of_one_view_sees_the_weak_one(pair) -> None:
    here = pair()
    both = here.ready(construct("sum", of=[{"use": "mlkd"}, {"use": "dist"}]))
    assert both.views == 2
    together = here(both)
    seen = here.seen
    alone = here(here.ready(construct("dist")))
    here.seen = seen
    assert torch.allclose(together["dist_inter"], alone["dist_inter"])


@pytest.mark.parametrize("of", [[{"use": "kd"}], [{"use": "kd"}, {"use": "simkd"}]])
def test_what_makes_no_sum_is_refused(of) -> None:
    with pytest.raises(RecipeError, match=r"distill\.of"):
        construct("sum", of=of)
