"""What is known of a method without importing it."""

import pytest

from edgekd import methods, recipe, registry
from edgekd.errors import RecipeError
from edgekd.plan import plan

SUM = {"of": [{"use": "dkd", "beta": 2}, {"use": "rtk", "weight": 0.5, "beta": 50}]}


def chain(**distill):
    said = {
        "name": "r",
        "data": {"use": "digits"},
        "teacher": {"model": "resnet20", "fit": {"epochs": 1}},
        "student": {"model": "resnet8"},
        "distill": distill,
    }
    return recipe.from_dict(said, "here")


def test_a_method_is_what_its_members_are_together() -> None:
    assert methods.needs_teacher("sum", SUM)
    assert not methods.needs_teacher("ce", {})
    assert methods.reconstructions("sum", SUM) == ["rtk"]
    assert methods.stored("sum", SUM) == ("block", ("energy", "pooled"))
    assert methods.stored("kd", {}) == (None, ())
    assert methods.stored("simkd", {}) is None
    both = {"of": [{"use": "rtk", "taps": "stage"}, {"use": "afd"}]}
    assert methods.stored("sum", both) is None


def test_the_baseline_is_what_remains_without_the_methods_own_terms() -> None:
    assert methods.baseline("rtk", {"alpha_kd": 0.5}) == {"ce_weight": 1, "kd_weight": 0.5, "temperature": 4}
    assert methods.baseline("kd", {}) == {"ce_weight": 0.1, "kd_weight": 0}
    assert methods.baseline("simkd", {}) is None
    assert methods.baseline("sum", SUM) == methods.baseline("dkd", {})


@pytest.mark.parametrize("use", sorted(set(registry.plugins("distillers")) - {"sum"}))
def test_every_baseline_names_arguments_of_kd(use) -> None:
    found = methods.baseline(use, {})
    assert found is None or registry.check("distillers", "kd", found, "kd") is not None


def test_members_are_checked_and_keyed_in_one_spelling() -> None:
    step = next(step for step in plan(chain(use="sum", **SUM), until="student") if step.name == "student")
    assert step.params.distill.args == {
        "of": [{"use": "dkd", "weight": 1}, {"use": "rtk", "weight": 0.5, "beta": 50}],
    }


@pytest.mark.parametrize(
    ("of", "place"),
    [
        ([{"use": "dkdd"}, {"use": "kd"}], "distill.of.0.use"),
        ([{"use": "kd"}, {"use": "at", "betta": 1}], "distill.of.1.betta"),
        ([{"use": "kd"}, {"weight": 1}], "distill.of.1.use"),
        ([{"use": "kd"}, {"use": "at", "weight": -1}], "distill.of.1.weight"),
        ([{"use": "kd"}, {"use": "sum", "of": []}], "distill.of.1.use"),
    ],
)
def test_a_wrong_member_is_named(of, place) -> None:
    with pytest.raises(RecipeError) as raised:
        plan(chain(use="sum", of=of), until="student")
    assert raised.value.where.endswith(place)
