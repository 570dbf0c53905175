"""Recipes: what is refused, and what the error says."""

import pytest

from edgekd import recipe as recipes
from edgekd import yamlsource
from edgekd.commands.find_recipe import shipped_recipes
from edgekd.errors import RecipeError
from edgekd.pipeline import steps_of

GOOD = """\
name: small
data:     {use: digits}
teacher:  {model: resnet20, fit: {epochs: 2}}
student:  {model: resnet8, fit: {epochs: 2}}
distill:  {use: rtk, beta: 50}
"""


def load(tmp_path, text, *overrides):
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return recipes.load(path, overrides)


def refused(tmp_path, text, *overrides):
    with pytest.raises(RecipeError) as caught:
        steps_of(load(tmp_path, text, *overrides))
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_good_recipe_gives_the_chain(tmp_path):
    steps = steps_of(load(tmp_path, GOOD))
    assert [step.name for step in steps] == [
        "data", "teacher", "student", "graph", "quantized/u8s8",
        "export/onnx", "export/onnx-int8", "bench/onnx@cpu", "bench/onnx-int8@cpu",
    ]  # fmt: skip


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_is_valid(name):
    assert len(shipped_recipes()) >= 4
    assert steps_of(recipes.load(shipped_recipes()[name]))


def test_ce_needs_no_teacher(tmp_path):
    text = GOOD.replace("teacher:  {model: resnet20, fit: {epochs: 2}}\n", "").replace(
        "{use: rtk, beta: 50}", "{use: ce}"
    )
    assert "teacher" not in [step.name for step in steps_of(load(tmp_path, text))]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("use: digits", "use: digitz", ["r.yaml:2", "data.use", "'digitz'", "digits"]),
        ("epochs: 2}}\nstudent", "epochz: 2}}\nstudent", ["r.yaml:3", "teacher.fit.epochz", "epochs"]),
        ("beta: 50", "beta: many", ["r.yaml:5", "distill.beta", "'many'", "number"]),
        ("beta: 50", "bta: 50", ["r.yaml:5", "distill.bta", "'beta'"]),
        ("beta: 50", "select: best", ["r.yaml:5", "distill.select", "topk"]),
        ("use: rtk", "use: rtkk", ["r.yaml:5", "distill.use", "'rtk'"]),
        ("resnet8,", "resnet9,", ["r.yaml:4", "student.model", "resnet8"]),
        ("name: small", "name: ../small", ["r.yaml:1", "name"]),
        ("epochs: 2}}\ndistill", "epochs: 0}}\ndistill", ["r.yaml:4", "student.fit.epochs", "greater than or equal to 1"]),
        ("fit: {epochs: 2}}\nstudent", "checkpoint: x, fit: {epochs: 2}}\nstudent", ["r.yaml:3", "either `fit`"]),
        ("name: small", "name: small\nname: big", ["r.yaml:2", "stands twice"]),
        ("name: small", "name: !!python/object/apply:os.system ['true']", ["r.yaml:1", "tag"]),
        ("name: small", "name: &a small", ["r.yaml:1", "anchor"]),
        ("name: small", "name: [", ["r.yaml", "not valid YAML"]),
        ("name: small", "name: small\nexport: [onxx]", ["r.yaml:2", "export", "onnx"]),
        ("name: small", "name: small\nexport: []", ["r.yaml:2", "export"]),
        ("name: small", "name: small\nbench: {device: jetsom}", ["r.yaml:2", "bench.device", "edgekd devices"]),
        ("name: small", "name: small\nbench: {threads: 1.5}", ["r.yaml:2", "bench.threads"]),
        ("name: small", "name: small\nquantize: {use: ptq, calibrate: magic}", ["r.yaml:2", "quantize.calibrate", "entropy"]),
        ("use: digits", "use: digits, augment: [spin]", ["r.yaml:2", "data.augment", "spin"]),
        ("name: small\n", "", ["r.yaml", "'name' is missing"]),
        ("name: small", "name: small\npower: {rail: 1}", ["r.yaml:2", "unknown key 'power'"]),
        ("name: small", "name: small\ngate: {npu_coverage: 2}", ["r.yaml:2", "gate.npu_coverage", "less than or equal to 1"]),
        ("name: small", "name: small\ngate: {max_drop_pp: 0}", ["r.yaml:2", "gate.max_drop_pp", "greater than 0"]),
        ("name: small", "name: small\ngate: {stages: {grph: 1}}", ["r.yaml:2", "did you mean 'graph'?"]),
        ("name: small", "name: small\ngate: {stages: {}}", ["r.yaml:2: gate", "`max_drop_pp`"]),
        ("name: small", "name: small\ngate: {max_drop_pp: 1, stages: {graph: 2}}", ["r.yaml:2: gate", "sum to more"]),
    ],
)  # fmt: skip
def test_a_bad_recipe_names_place_key_and_way_out(tmp_path, old, new, says):
    assert old in GOOD
    text = refused(tmp_path, GOOD.replace(old, new, 1))
    for part in says:
        assert part in text
    assert len(text.splitlines()) <= 8


def test_distilling_without_a_teacher_is_refused(tmp_path):
    assert "distill: {use: ce}" in refused(
        tmp_path, GOOD.replace("teacher:  {model: resnet20, fit: {epochs: 2}}\n", "")
    )


def test_an_alias_bomb_costs_nothing(tmp_path):
    text = "a: &a [x, x]\nb: &b [*a, *a]\n" + GOOD
    assert "anchor" in refused(tmp_path, text)


def test_a_deep_or_large_document_is_refused(tmp_path):
    assert "nested" in refused(tmp_path, "name: " + "[" * 40 + "]" * 40)
    assert "bytes" in refused(tmp_path, GOOD + "#" * (yamlsource.MAX_BYTES + 1))


def test_binary_is_refused(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="UTF-8"):
        recipes.load(path)


def test_overrides_are_typed_and_placed(tmp_path):
    recipe = load(tmp_path, GOOD, "distill.beta=7", "student.fit.epochs=9", "export=[onnx]")
    assert (recipe.distill.args, recipe.student.fit.epochs, recipe.export) == ({"beta": 7}, 9, ["onnx"])
    assert "--set student.fit.epochs=x" in refused(tmp_path, GOOD, "student.fit.epochs=x")
    assert "a.b=c" in refused(tmp_path, GOOD, "student")
    assert "is not a section" in refused(tmp_path, GOOD, "name.x=1")
    assert "'student'" in refused(tmp_path, GOOD, "studen.model=resnet8")


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("2E2", 200.0), ("-1.5e+1", -15.0), ("'1e3'", "1e3")])
def test_a_number_is_what_people_take_for_one(text, value):
    assert yamlsource.scalar(text, "x") == value


@pytest.mark.parametrize("order", [("distill.use=afd", "distill.qk_dim=64"), ("distill.qk_dim=64", "distill.use=afd")])
def test_another_plugin_drops_the_arguments_of_the_one_before(tmp_path, order):
    recipe = load(tmp_path, GOOD, *order)
    assert (recipe.distill.use, recipe.distill.args) == ("afd", {"qk_dim": 64})


def test_so_does_one_in_the_place_of_a_default_that_is_not_named():
    """A recipe may leave `use: ptq` out and say how it calibrates."""
    data = {"name": "n", "data": {"use": "digits"}, "student": {"model": "resnet8"}, "distill": {"use": "ce"}}
    data["quantize"] = {"calibrate": "minmax", "images": 32}
    other = recipes.from_dict(data, "n", ["quantize.use=mixed"]).quantize
    assert (other.use, other.args, other.images) == ("mixed", {}, 32)
    assert recipes.from_dict(data, "n", ["quantize.use=ptq"]).quantize.args == {"calibrate": "minmax"}


def test_the_same_plugin_keeps_its_arguments(tmp_path):
    assert load(tmp_path, GOOD, "distill.use=rtk").distill.args == {"beta": 50}


def test_a_recipe_survives_its_record(tmp_path):
    recipe = load(tmp_path, GOOD)
    kept = recipe.model_dump(mode="json")
    assert recipes.from_dict(kept, "record").model_dump(mode="json") == kept
