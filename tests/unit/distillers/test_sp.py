import pytest
from madeup import ready, stages

from edgekd.distillers.sp import SP

STUDENT, TEACHER = stages((4, 8, 8), (6, 4, 4)), stages((5, 8, 8), (5, 6, 6), (9, 3, 3))


@pytest.mark.parametrize("factor", [1e-3, 100.0])
def test_the_scale_of_the_features_does_not_matter(factor) -> None:
    plain, scaled = ready(SP(), STUDENT, TEACHER), ready(SP(), STUDENT, TEACHER)
    for outputs in scaled[1:]:
        outputs.taps.update({key: tap.detach() * factor for key, tap in outputs.taps.items()})
        factor /= 10
    assert scaled()["sp"].item() == pytest.approx(plain()["sp"].item(), rel=1e-4)


def test_the_last_stage_of_each_is_read_whatever_their_number() -> None:
    student, teacher = SP().wanted(list(STUDENT), list(TEACHER))
    assert (student, teacher) == ([("stage.2", "map")], [("stage.3", "map")])


def test_a_batch_in_another_order_is_the_same_batch() -> None:
    plain, turned = ready(SP(), STUDENT, TEACHER, batch=5), ready(SP(), STUDENT, TEACHER, batch=5)
    for outputs in turned[1:]:
        outputs.taps.update({key: tap.detach().flip(0) for key, tap in outputs.taps.items()})
    assert turned()["sp"].item() == pytest.approx(plain()["sp"].item(), rel=1e-4)
    outputs.taps.update({key: tap.detach().flip(0) for key, tap in outputs.taps.items()})
    assert turned()["sp"].item() != pytest.approx(plain()["sp"].item(), rel=1e-2)
