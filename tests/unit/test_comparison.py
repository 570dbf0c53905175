"""Methods, seeds and budgets as typed; baselines; and what of a student hangs on its seed."""

import pytest

from edgekd import methods, registry
from edgekd import recipe as recipes
from edgekd.comparison import compared, read_methods, read_seeds, shortened, split
from edgekd.distillers.base import Distiller
from edgekd.errors import RecipeError, UsageError
from edgekd.pipeline import steps_of

RECIPE = {
    "name": "pair",
    "data": {"use": "digits", "val": 100},
    "teacher": {"model": "resnet14", "fit": {"epochs": 2}},
    "student": {"model": "resnet8", "fit": {"epochs": 240}},
    "distill": {"use": "rtk", "beta": 50},
}


def given(*overrides):
    return recipes.from_dict(RECIPE, "pair", overrides)


def rows(typed, *overrides):
    found = compared(given(*overrides), typed, "2")
    return {method.label: (method.use, dict(method.args), method.asked, method.baseline) for method in found.methods}


def test_the_table_of_a_comparison():
    assert rows("afd,rtk:alpha_kd=0") == {
        "ce": ("ce", {}, False, None),
        "kd": ("kd", {}, False, None),
        "kd:ce_weight=1": ("kd", {"ce_weight": 1}, False, None),  # what is left of AFD: CE + 0.9 KD
        "afd": ("afd", {}, True, "kd:ce_weight=1"),
        "rtk:alpha_kd=0": ("rtk", {"beta": 50, "alpha_kd": 0}, True, "ce"),  # the recipe's beta, and what was typed
    }


def test_a_typed_method_stands_for_its_like():
    found = rows("kd:ce_weight=1,ce,kd,afd")
    assert list(found) == ["ce", "kd", "kd:ce_weight=1", "kd:kd_weight=0", "afd"]
    assert all(found[name][2] for name in ("ce", "kd", "kd:ce_weight=1", "afd"))
    assert found["afd"][3] == "kd:ce_weight=1"
    assert found["kd"][3] == "kd:kd_weight=0"  # its labels weigh 0.1: not `ce`
    renamed = compared(given(), "kd:temperature=4", "2")
    assert renamed.usual == "kd:temperature=4"
    assert "kd" not in [method.label for method in renamed.methods]


@pytest.mark.parametrize("use", sorted(registry.plugins("distillers")))
def test_every_method_has_a_baseline_that_can_run(use):
    if registry.find("distillers", use).attributes.get("wraps") or any(
        argument.default is None for argument in registry.find("distillers", use).arguments
    ):
        pytest.skip(f"{use} has no arguments of its own to start from")
    found = compared(given(), use, "1")
    row = found.row(use)
    assert use == "ce" or row.baseline is None or found.row(row.baseline).use in ("ce", "kd")
    for method in found.methods:
        assert methods.needs_teacher(method.use, method.args) == (method.use != "ce")
        assert steps_of(found.student(method, 3), until="student")[-1].params.seed == 3


def test_the_default_baseline_is_that_of_the_base_class():
    assert dict(Distiller.baseline) == methods.BASELINE


def test_references_are_each_named_once():
    found = compared(given(), "kd,afd,rtk:alpha_kd=0", "2")
    assert found.references(found.row("ce")) == ["kd"]
    assert found.references(found.row("kd")) == ["ce", "kd:kd_weight=0"]
    assert found.references(found.row("afd")) == ["ce", "kd", "kd:ce_weight=1"]
    assert found.references(found.row("rtk:alpha_kd=0")) == ["ce", "kd"]  # its own baseline is `ce`


def test_from_cached_views_labels_alone_see_them_too():
    found = compared(given("distill.cached_views=4"), "ce,rtk", "2")
    assert found.row("ce").use == "kd"
    params = steps_of(found.student(found.row("ce"), 0), until="student")[-1].params
    assert params.distill.cached_views == 4
    assert params.distill.args == {"ce_weight": 1, "kd_weight": 0}


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        ("ce,kd", ["ce", "kd"]),
        ("rtk:k=3, kd", ["rtk:k=3", "kd"]),
        ("sum:of=[{use: kd}, {use: rtk, k: 3}],ce", ["sum:of=[{use: kd}, {use: rtk, k: 3}]", "ce"]),
        ("a:b='x,y',c", ["a:b='x,y'", "c"]),
        ("", []),
    ],
)
def test_commas_in_brackets_and_quotes_belong_to_the_value(typed, parts):
    assert split(typed, ",") == parts


def test_values_are_yaml():
    found = read_methods("rtk:k=3:beta=1e2:stage_mask=true:select=stage_topk:taps='stage'", given())[0]
    assert found.args == {"k": 3, "beta": 100, "stage_mask": True, "select": "stage_topk", "taps": "stage"}
    of = read_methods("sum:of=[{use: kd}, {use: rtk, k: 3}]", given())[0]
    assert [member["use"] for member in of.args["of"]] == ["kd", "rtk"]


@pytest.mark.parametrize(
    ("typed", "error"),
    [
        ("", "names none"),
        ("rtkk", "did you mean 'rtk'"),
        ("rtk:bta=1", "rtk has no argument 'bta'"),
        ("rtk:beta=-1", "greater than or equal to 0"),
        ("rtk:beta", "argument=value"),
        ("kd,kd", "stands twice"),
        ("sum:of=[{use: kd}", "misses"),
    ],
)
def test_a_mistyped_method_is_named(typed, error):
    with pytest.raises(UsageError, match=error) as caught:
        read_methods(typed, given())
    assert typed in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "seeds"),
    [("5", (0, 1, 2, 3, 4)), ("1", (0,)), ("100-103", (100, 101, 102, 103)), ("3,7", (3, 7)), ("1,5-6", (1, 5, 6))],
)
def test_seeds(typed, seeds):
    assert read_seeds(typed) == seeds


@pytest.mark.parametrize("typed", ["", "0", "x", "3-1", "1,1", "-3", "0-99999999999", "2147483648,1", "1.5"])
def test_no_seeds(typed):
    with pytest.raises(UsageError, match="list of seeds"):
        read_seeds(typed)


def test_milestones_and_warmup_move_with_the_epochs():
    fit = ["student.fit.milestones=[150, 180, 210]", "student.fit.warmup=24", "student.fit.epochs=240"]
    short = shortened(given(*fit), 20, "best").student.fit
    assert (short.epochs, short.milestones, short.warmup, short.keep) == (20, [12, 15, 18], 2, "best")
    assert shortened(given(*fit), 1, None).student.fit.milestones == [1]
    assert shortened(given(), 30, None).student.fit.milestones is None
    assert shortened(given(), None, None).model_dump() == given().model_dump()
    with pytest.raises(RecipeError, match="keep"):
        shortened(given(), None, "worst")


def test_a_student_that_is_imported_is_not_compared():
    imported = given("student.checkpoint=x.pt")
    with pytest.raises(RecipeError, match="imported"):
        compared(imported, "kd", "2")


def params(recipe):
    return {step.name: step.params for step in steps_of(recipe, until="student")}


def test_the_students_seed_changes_the_student_alone():
    own, common = params(given("student.seed=7")), params(given())
    assert own["student"].seed == 7
    assert own["student"].model_copy(update={"seed": 0}) == common["student"]
    assert {name: own[name] for name in ("data", "teacher")} == {name: common[name] for name in ("data", "teacher")}
    assert own["student"].roles.seed == 0
    viewed = [params(given(f"student.seed={seed}", "distill.cached_views=2"))["views"] for seed in (1, 2)]
    assert viewed[0] == viewed[1]


def test_keys_of_before_stay():
    """What is not said is not in a dump, and so in no key."""
    dump = given().model_dump(mode="json")
    assert "seed" not in dump["student"]
    assert "keep" not in dump["student"]["fit"]
    assert given("student.fit.keep=last").model_dump() == given().model_dump()
    assert given("student.fit.keep=best").model_dump() != given().model_dump()
    said, unsaid = params(given("student.fit.keep=last", "student.seed=0")), params(given())
    assert {name: p.model_dump() for name, p in said.items()} == {name: p.model_dump() for name, p in unsaid.items()}


def test_an_imported_student_has_no_seed():
    with pytest.raises(RecipeError, match="`seed` beside `fit` alone"):
        given("student.checkpoint=x.pt", "student.seed=3")
    seeded = {**RECIPE, "student": {**RECIPE["student"], "seed": 3}}
    assert recipes.from_dict(seeded, "seeded", ["student.checkpoint=x.pt"]).student.seed is None


def test_the_digest_is_that_of_what_is_compared():
    base = compared(given(), "kd,rtk", "3")
    assert base.digest == compared(given(), "kd, rtk", "0-2").digest
    others = [
        compared(given(), "kd,rtk", "4"),
        compared(given(), "kd,afd", "3"),
        compared(given("seed=1"), "kd,rtk", "3"),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 4
