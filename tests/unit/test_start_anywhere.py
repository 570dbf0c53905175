"""A chain entered at a checkpoint, an ONNX file or a quantized ONNX file answers as the chain that made the file."""

import json
import shutil
from contextlib import chdir
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import yaml
from PIL import Image
from provenchain import call, chain_of
from torchless import torchless

from edgekd import onnxfile, predictions
from edgekd import recipe as recipes
from edgekd.commands import start
from edgekd.console import Console
from edgekd.errors import IntegrityError, RecipeError
from edgekd.params import AdoptParams, Roles, TeacherParams
from edgekd.pipeline import steps_of
from edgekd.stages import adopt
from edgekd.stages.base import RunContext
from edgekd.store import Store

RECIPE = {
    "name": "tiny",
    "data": {"use": "digits", "train": 600},
    "student": {
        "model": "resnet8",
        "fit": {"epochs": 6, "lr": 0.1, "batch_size": 32, "schedule": "one-cycle", "device": "cpu"},
    },
    "distill": {"use": "ce"},
    "quantize": {"images": 64},
    "bench": {"profile": "smoke"},
}
FILES = {"weights.safetensors": "student", "model.onnx": "export/onnx", "model.int8.onnx": "export/onnx-int8"}


def answers(artifact):
    return predictions.load(artifact.path).of("test")


def same_answers(one, other):
    return np.array_equal(one.row, other.row) and np.array_equal(one.logits, other.logits)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A chain that was trained here, and the files that a user would carry away from it."""
    home = tmp_path_factory.mktemp("original")
    (home / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    steps = chain_of(home, "export", "--recipe", "tiny.yaml")
    for name, step in FILES.items():
        shutil.copyfile(steps[step].path / ("weights.safetensors" if step == "student" else "model.onnx"), home / name)
    return SimpleNamespace(home=home, steps=steps)


@pytest.fixture
def home(original, tmp_path):
    """A fresh folder with the files and the recipe, and nothing made."""
    for name in ("tiny.yaml", *FILES):
        shutil.copyfile(original.home / name, tmp_path / name)
    return tmp_path


# ---- each place of entry gives the answers of the chain that made the file --------------------------------------------


def test_a_checkpoint_goes_on_as_the_student_that_it_was(original, home):
    recipe = {k: v for k, v in RECIPE.items() if k != "distill"}
    recipe["student"] = {"model": "resnet8", "checkpoint": "weights.safetensors", "expect_top1": 100.0}
    top1 = original.steps["student"].metrics["top1_percent"]
    recipe["student"]["expect_top1"] = round(top1, 2)
    (home / "imported.yaml").write_text(yaml.safe_dump(recipe))
    steps = chain_of(home, "quantize", "--recipe", "imported.yaml")
    assert list(steps) == ["data", "student", "graph", "quantized/u8s8"]
    assert steps["student"].digest == original.steps["student"].digest  # same weights, facts and answers
    assert steps["student"].metrics["checkpoint"] == "weights.safetensors"
    for step in ("graph", "quantized/u8s8"):
        assert same_answers(answers(steps[step]), answers(original.steps[step]))

    wrong = call(home, "quantize", "--workspace", "w", "--set", "student.expect_top1=12.5")
    assert wrong.code == 3 and "student.expect_top1: top-1 on test is" in wrong.err
    text = call(home, "report", "--workspace", "w").out
    assert "skipped: the student is imported" in text
    facts = json.loads((home / "w" / "reports" / "tiny" / "report.json").read_text())
    assert [row["what"] for row in facts["stages"] if row["step"] == "student"] == ["resnet8, imported"]


def test_an_override_imports_the_student_of_any_recipe(original, home):
    (home / "kept").mkdir()
    weights = (home / "weights.safetensors").rename(home / "kept" / "weights.safetensors")
    argv = (
        "distill",
        "--recipe",
        "tiny.yaml",
        "--set",
        "student.checkpoint=kept/weights.safetensors",
        "--output",
        "out",
    )
    assert list(chain_of(home, *argv)) == ["data", "student"]
    assert (home / "out" / "student" / "weights.safetensors").read_bytes() == weights.read_bytes()


def test_an_onnx_file_is_quantized_and_exported_as_the_graph_that_it_was(original, home):
    own = ("distill", "--recipe", "tiny.yaml", "--set", "student.checkpoint=weights.safetensors")
    before = chain_of(home, *own)
    steps = chain_of(home, "quantize", "--from", "model.onnx")
    assert list(steps) == ["data", "graph", "quantized/u8s8"]
    for step in ("graph", "quantized/u8s8"):
        assert same_answers(answers(steps[step]), answers(original.steps[step]))
    ours, theirs = (json.loads((s["graph"].path / "model.json").read_text()) for s in (steps, original.steps))
    assert ours["reference"] == "the imported file itself" == steps["graph"].metrics["reference"]
    assert {k: ours[k] for k in ("macs", "normalize", "classes", "model", "opset")} == {
        k: theirs[k] for k in ("macs", "normalize", "classes", "model", "opset")
    }
    parity = json.loads((steps["graph"].path / "parity.json").read_text())
    assert parity["against"] == "the imported file itself" and parity["test"]["max_abs_error"] == 0.0
    assert str(home) not in json.dumps(steps["graph"].manifest)
    # the run of the recipe itself stays, and the new one is the current one: a command without --from goes on from it
    assert chain_of(home, "export", "--format", "onnx-int8")["quantized/u8s8"].id == steps["quantized/u8s8"].id
    assert {p.stem for p in (home / "w" / "runs").glob("*.json")} == {"tiny", "tiny-from-model"}
    assert chain_of(home, *own)["student"].id == before["student"].id


def test_a_quantized_file_is_measured_as_it_is(original, home):
    steps = chain_of(home, "bench", "--from", "model.int8.onnx", "--recipe", "tiny.yaml")
    assert list(steps) == ["data", "quantized/u8s8", "export/onnx-int8", "bench/onnx-int8@cpu"]
    for step in ("quantized/u8s8", "bench/onnx-int8@cpu"):
        assert same_answers(answers(steps[step]), answers(original.steps["quantized/u8s8"]))
    given, kept = (onnxfile.load(p) for p in (home / "model.int8.onnx", steps["export/onnx-int8"].path / "model.onnx"))
    assert list(given.graph.node) == list(kept.graph.node)
    assert list(given.graph.initializer) == list(kept.graph.initializer)
    assert steps["bench/onnx-int8@cpu"].metrics["latency_p50_ms"] > 0

    facts = json.loads((home / "w" / "reports" / "tiny-from-model.int8" / "report.json").read_text())
    rows = {row["step"]: row for row in facts["stages"]}
    assert [rows[s]["verdict"] for s in ("teacher", "student", "graph")] == [
        "skipped: the chain begins at an ONNX file"
    ] * 3
    assert rows["quantized/u8s8"]["what"].startswith("resnet8, imported from model.int8.onnx as u8s8 (DequantizeLinear")
    assert rows["quantized/u8s8"]["verdict"] == "first of the chain"
    assert call(home, "report", "--workspace", "w").code == 0
    assert "top-1 " in call(home, "eval", "--workspace", "w").out
    assert "quantized/u8s8/" in call(home, "artifacts", "ls", "--workspace", "w").out
    Image.new("L", (8, 8), 128).save(home / "a.png")
    assert len(json.loads(call(home, "predict", "a.png", "--json", "--workspace", "w").out)["images"]) == 1
    again = chain_of(home, "export", "--from", "quantized/u8s8")
    assert again["export/onnx-int8"].id == steps["export/onnx-int8"].id


def test_what_is_cached_needs_no_torch_and_its_name_does_not_count(original, home):
    chain_of(home, "export", "--from", "model.onnx", "--recipe", "tiny.yaml", "--format", "onnx")
    (home / "link.onnx").symlink_to(home / "model.onnx")
    for name, argv in (("model.onnx", ()), ("link.onnx", ()), ("model.onnx", ("--dry-run",))):
        argv = ("export", "--workspace", "w", "--from", name, "--recipe", "tiny.yaml", "--format", "onnx", *argv)
        done = torchless(home, *argv)
        assert "making" not in done.stderr and "to make" not in done.stdout


def test_a_dry_run_makes_nothing(home):
    done = call(home, "run", "--from", "model.onnx", "--recipe", "tiny.yaml", "--dry-run", "--json", "--workspace", "w")
    found = json.loads(done.out)
    assert [s["step"] for s in found["steps"]][:3] == ["data", "graph", "quantized/u8s8"] and found["complete"]
    assert not (home / "w").exists()


# ---- what cannot be entered says so, before work ----------------------------------------------------------------------

BAD = [
    (["quantize", "--from", "model.onnx"], 2, "edgekd quantize --from model.onnx --recipe"),
    (["quantize", "--from", "gone.onnx", "--recipe", "tiny.yaml"], 2, "--from gone.onnx: file 'gone.onnx' not found"),
    (["quantize", "--from", "dangling.onnx", "--recipe", "tiny.yaml"], 2, "not found; looked for"),
    (["run", "--from", "weights.safetensors", "--recipe", "tiny.yaml"], 2, "--set student.checkpoint="),
    (["distill", "--from", "model.onnx", "--recipe", "tiny.yaml"], 2, "nothing is left to distill"),
    (["train", "--from", "model.onnx", "--recipe", "tiny.yaml"], 2, "nothing is left to train"),
    (["quantize", "--from", "model.int8.onnx", "--recipe", "tiny.yaml"], 2, "quantized already"),
    (["export", "--from", "model.int8.onnx", "--recipe", "tiny.yaml", "--format", "onnx"], 2, "--format onnx-int8"),
    (["export", "--from", "text.onnx", "--recipe", "tiny.yaml"], 6, "text.onnx cannot be read as ONNX"),
    (["export", "--from", "model.onnx", "--recipe", "tiny.yaml", "--set", "data.size=16"], 2, "--set data.size=8"),
    (["export", "--from", "model.onnx", "--recipe", "tiny.yaml", "--set", "student.scheme=u8s8"], 2, "is a float32 file"),
    (["export", "--from", "model.onnx", "--recipe", "tiny.yaml", "--set", "student.normalize=none"], 2, "student.normalize"),
    (["export", "--from", "unsaid.onnx", "--recipe", "tiny.yaml"], 2, "--set student.normalize="),
    (["export", "--from", "swapped.onnx", "--recipe", "tiny.yaml"], 2, "class 0 is ['1']"),
    (["export", "--recipe", "tiny.yaml", "--set", "student.onnx=model.int8.onnx"], 2, "--set student.scheme="),
    (["export", "--recipe", "tiny.yaml", "--set", "student.onnx=model.onnx", "--set", "distill.use=kd"], 2, "distill"),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "code", "says"), BAD, ids=[" ".join(argv) for argv, _, _ in BAD])
def test_a_wrong_entry_is_one_screen_and_the_right_code(home, argv, code, says):
    (home / "text.onnx").write_text("no network at all, but a text")
    (home / "dangling.onnx").symlink_to(home / "nowhere")
    model = onnx.load(home / "model.onnx")
    classes = json.loads(onnxfile.metadata(model)["classes"])
    onnxfile.set_metadata(
        model, onnxfile.metadata(model) | {"classes": json.dumps([classes[1], classes[0], *classes[2:]])}
    )
    onnxfile.save(model, home / "swapped.onnx")
    onnxfile.save(onnxfile.strip(model), home / "unsaid.onnx")
    done = call(home, *argv, "--workspace", "w")
    assert done.code == code, done.err
    assert says in done.err and "Traceback" not in done.err and len(done.err.splitlines()) <= 20
    assert not list((home / "w").glob("artifacts/graph/*")) and not list((home / "w").glob("artifacts/quantized/*/*"))


def test_a_file_that_says_nothing_is_taken_as_the_recipe_says(original, home):
    onnxfile.save(onnxfile.strip(onnx.load(home / "model.onnx")), home / "unsaid.onnx")
    steps = chain_of(
        home, "quantize", "--from", "unsaid.onnx", "--recipe", "tiny.yaml", "--set", "student.normalize=dataset"
    )
    assert same_answers(answers(steps["quantized/u8s8"]), answers(original.steps["quantized/u8s8"]))
    assert json.loads((steps["graph"].path / "model.json").read_text())["model"] == "imported network"


HOSTILE = [
    ("classes", "cat,dog"),
    ("classes", "5"),
    ("mean", "[x]"),
    ("mean", '["a"]'),
    ("mean", "0.5"),
    ("std", "[0.0]"),
    ("std", "[NaN]"),
]


@pytest.mark.parametrize(("key", "value"), HOSTILE)
def test_nonsense_that_a_file_says_of_itself_is_damage(home, key, value):
    model = onnx.load(home / "model.onnx")
    onnxfile.save(onnxfile.set_metadata(model, onnxfile.metadata(model) | {key: value}), home / "nonsense.onnx")
    done = call(home, "quantize", "--from", "nonsense.onnx", "--recipe", "tiny.yaml", "--workspace", "w")
    assert done.code == 6 and value in done.err and "Traceback" not in done.err, done.err


# ---- the recipe -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "says"),
    [
        ({}, "`model`"),
        ({"model": "resnet8", "onnx": "a.onnx"}, "no `model` beside `onnx`"),
        ({"model": "resnet8", "checkpoint": "a.pt", "fit": {"epochs": 1}}, "one of `fit`"),
        ({"model": "resnet8", "scheme": "u8s8"}, "`scheme` beside an `onnx`"),
        ({"model": "resnet8", "expect_top1": 90.0}, "`expect_top1`"),
        ({"model": "resnet8", "checkpoint": "a.pt", "normalize": "imagnet"}, "did you mean 'imagenet'"),
        ({"onnx": "a.onnx", "scheme": "u8s9"}, "cannot be made from a file that is quantized already"),
    ],
    ids=str,
)
def test_a_student_has_one_origin(student, says):
    values = {k: v for k, v in RECIPE.items() if k != "distill"} | {"student": student}
    with pytest.raises(RecipeError, match=says):
        steps_of(recipes.from_dict(values, "x"))


def test_nothing_that_is_said_of_another_student_is_taken_for_the_file():
    given = {
        "model": "resnet8",
        "checkpoint": "a.pt",
        "normalize": "none",
        "expect_top1": 90.0,
        "trained_on": "train+val",
    }
    values = {k: v for k, v in RECIPE.items() if k != "distill"} | {"student": given}
    recipe = recipes.from_dict(values, "x", ["student.normalize=imagenet", "student.onnx=b.onnx"])
    assert recipe.student.model_dump() == {"onnx": "b.onnx", "normalize": "imagenet"}
    assert recipes.from_dict(values, "x", ["student.onnx=b.onnx"]).student.model_dump() == {"onnx": "b.onnx"}


def test_a_resize_rule_without_a_size_is_refused_before_the_data_are_looked_for():
    with pytest.raises(RecipeError, match="without a size"):
        steps_of(recipes.from_dict(RECIPE | {"data": {"use": "digits", "resize": "photo"}}, "x"))


def test_a_fitted_student_needs_a_method_and_an_imported_one_has_none():
    with pytest.raises(RecipeError, match="distill: is missing"):
        steps_of(recipes.from_dict({k: v for k, v in RECIPE.items() if k != "distill"}, "x"))
    imported = RECIPE | {"student": {"model": "resnet8", "checkpoint": "a.pt"}}
    with pytest.raises(RecipeError, match="beside a student that is imported"):
        steps_of(recipes.from_dict(imported, "x"))


def test_a_recipe_read_back_is_the_same():
    for overrides in ([], ["student.checkpoint=a.pt"], ["student.onnx=a.onnx", "student.scheme=u8s8"]):
        recipe = recipes.from_dict(RECIPE, "x", overrides)
        dumped = recipe.model_dump(mode="json")
        assert recipes.from_dict(dumped, "x").model_dump(mode="json") == dumped
        assert None not in dumped["student"].values() and ("fit" in dumped["student"]) == (not overrides)


def test_what_was_made_before_keeps_its_key():
    params = TeacherParams(model="resnet8", checkpoint="a.pt", roles=Roles(), seed=0)
    assert "role" not in params.model_dump() and params.role == "teacher"


def test_a_file_changed_since_the_plan_is_not_taken(original):
    params = AdoptParams(onnx=str(original.home / "model.onnx"), onnx_sha256="0" * 64, roles=Roles())
    with pytest.raises(IntegrityError, match="as when the step was planned"):
        adopt.check(params, RunContext((), None, original.home, Console(quiet=True)))


def test_a_tag_may_end_like_a_file(original, home, tmp_path):
    with chdir(tmp_path):
        assert start.is_file("prod.onnx", home / "w") and start.is_file("./prod.onnx", home / "w")
        Store(home / "w").tag("prod.onnx", original.steps["graph"])
        assert not start.is_file("prod.onnx", home / "w") and start.is_file("./prod.onnx", home / "w")
        assert not start.is_file("export/onnx", home / "w") and not start.is_file(None, home / "w")
