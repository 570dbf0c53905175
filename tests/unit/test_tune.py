"""`edgekd tune` on the embedded digits: judged by validation alone, trials as artifacts, the same search when it goes on."""

import json
import sys

import pytest
import yaml

from edgekd import predictions
from edgekd.artifact import Artifact
from edgekd.commands import tune as command
from edgekd.commands.artifacts import needed
from edgekd.commands.students import Asked, Students
from edgekd.commands.tune import Tried, TuneOptions, tune
from edgekd.errors import IntegrityError, MissingTool, RecipeError, UsageError
from edgekd.stages import evaluate
from edgekd.store import Store

RECIPE = {
    "name": "tiny",
    "data": {"use": "digits", "train": 96, "val": 40},
    "teacher": {"model": "resnet8", "fit": {"epochs": 1, "batch_size": 32, "lr": 0.1, "device": "cpu"}},
    "student": {"model": "resnet8", "fit": {"epochs": 4, "batch_size": 32, "lr": 0.05, "device": "cpu"}},
    "distill": {"use": "kd"},
}
PARAMETERS = ["distill.temperature=float:1..8", "student.fit.lr=log:0.01..0.2"]


@pytest.fixture(scope="module", autouse=True)
def optuna():
    return pytest.importorskip("optuna", reason="needs optuna: pip install 'edgekd[tune]'")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def ran(capsys, recipe, workspace, *, trials=3, parameters=PARAMETERS, seed=0, overrides=(), epochs=1, as_json=True):
    asked = Asked(str(recipe), workspace, None, list(overrides), 1)
    tune(TuneOptions(asked, list(parameters), trials, seed, epochs, as_json))
    said = capsys.readouterr().out
    return json.loads(said) if as_json else said


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """A finished tuning of four trials in one go."""
    workspace = tmp_path_factory.mktemp("tune")
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr("edgekd.commands.tune.output.print_json", said.append)
        asked = Asked(str(recipe), workspace, None, [], 1)
        tune(TuneOptions(asked, PARAMETERS, 4, 0, 1, True))
    return workspace, json.loads(json.dumps(said[0]))


def test_trials_are_ordinary_students_judged_by_validation(whole):
    workspace, facts = whole
    assert len(facts["trials"]) == 4
    for trial in facts["trials"]:
        student = Store(workspace).get(trial["artifact"])
        params, tried = student.manifest["params"], dict(value.split("=") for value in trial["values"])
        assert params["distill"]["args"]["temperature"] == float(tried["distill.temperature"])
        assert params["fit"]["lr"] == float(tried["student.fit.lr"])
        assert trial["val_percent"] == student.metrics["val_top1_percent"]
    assert facts["best"]["val_percent"] == max(trial["val_percent"] for trial in facts["trials"])
    assert facts["set"] == " ".join(f"--set {value}" for value in facts["best"]["values"])
    found = Store(workspace).all()
    assert {a.id for a in found} <= needed(workspace, found)


def test_a_tuning_that_goes_on_is_the_same_tuning(recipe, whole, tmp_path, capsys):
    assert ran(capsys, recipe, tmp_path, trials=2)["trials"] == whole[1]["trials"][:2]
    assert ran(capsys, recipe, tmp_path, trials=4)["trials"] == whole[1]["trials"]


def test_a_repeated_tuning_is_free_and_reads_no_test(recipe, whole, capsys, monkeypatch):
    def forbidden(*given):
        raise AssertionError

    monkeypatch.setattr(Students, "student", forbidden)
    monkeypatch.setattr(evaluate, "answers", forbidden)
    monkeypatch.setattr(predictions, "load", forbidden)
    with pytest.MonkeyPatch.context() as patch:  # nobody knows anything of test
        known = property(lambda self: {k: v for k, v in self.manifest["metrics"].items() if not k.startswith("top1")})
        patch.setattr(Artifact, "metrics", known)
        said = ran(capsys, recipe, whole[0], trials=4, as_json=False)
    best = whole[1]["best"]
    assert f"best: trial {best['number'] + 1}, {best['val_percent']:.2f} % of the validation images" in said
    following = f"next: edgekd distill --recipe {recipe} {whole[1]['set']} --workspace {whole[0]}"
    assert said.rstrip().splitlines()[-1] == following
    shown = {f"{Store(whole[0]).get(t['artifact']).metrics['top1_percent']:.2f}" for t in whole[1]["trials"]}
    known = {f"{t['val_percent']:.2f}" for t in whole[1]["trials"]}
    assert not any(figure in said for figure in shown - known)


def test_values_that_cannot_be_trained_are_left_out_and_said(recipe, tmp_path, capsys):
    wild = ["student.fit.lr=choice:0.05,1e30", "distill.temperature=choice:2,-2"]
    facts = ran(capsys, recipe, tmp_path, trials=8, parameters=wild, epochs=2)
    failed = [trial for trial in facts["trials"] if trial["val_percent"] is None]
    said = " ".join(trial["why"] for trial in failed)
    assert "loss term" in said and "distill.temperature" in said
    assert len(failed) < 8
    assert all(trial["artifact"] is None for trial in failed)
    assert facts["best"]["values"] == ["student.fit.lr=0.05", "distill.temperature=2"]
    assert ran(capsys, recipe, tmp_path, trials=8, parameters=wild, epochs=2)["trials"] == facts["trials"]


def test_without_validation_it_is_refused_before_training(recipe, tmp_path, capsys):
    with pytest.raises(RecipeError, match=r"data\.val: 0") as caught:
        ran(capsys, recipe, tmp_path, overrides=["data.val=0"])
    assert "--set data.val" in caught.value.hint
    assert {a.step for a in Store(tmp_path).all()} == {"data"}


@pytest.mark.parametrize(
    ("parameter", "error"),
    [
        ("distill.temprature=float:1..8", "kd has no argument 'temprature'"),
        ("student.fit.lrr=float:1..8", "unknown key 'student.fit.lrr'"),
        ("distill.use=choice:kdd,kd", "did you mean 'kd'"),
    ],
)
def test_a_key_that_the_recipe_does_not_have_is_named(recipe, tmp_path, capsys, parameter, error):
    with pytest.raises(RecipeError, match=error):
        ran(capsys, recipe, tmp_path, parameters=[parameter])
    assert not Store(tmp_path).all()


def test_data_that_are_not_there_end_it(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("EDGEKD_DATA", raising=False)
    with pytest.raises(RecipeError, match="cifar10") as caught:
        ran(capsys, recipe, tmp_path, overrides=["data.use=cifar10"])
    assert "EDGEKD_DATA" in caught.value.hint


def test_a_flattered_validation_is_said(recipe, whole, capsys, monkeypatch):
    monkeypatch.setattr(command, "_trials", lambda study, *given: iter([tried]))
    monkeypatch.setattr(command, "_require_validation", lambda *given: None)
    tried = Tried(0, ("distill.temperature=2",), 50.0, "student/00000000-00000000")
    seen = ["teacher.fit=null", "teacher.checkpoint=x.pt", "teacher.trained_on=train+val"]
    facts = ran(capsys, recipe, whole[0], overrides=seen, parameters=PARAMETERS[:1])
    assert any("teacher has seen the validation images" in note for note in facts["notes"])


def test_a_damaged_note_is_named(recipe, whole, capsys):
    path = next((whole[0] / "tunings").glob("*/trials.json"))
    kept = path.read_bytes()
    try:
        path.write_text('{"trials": [3]}')
        with pytest.raises(IntegrityError, match=r"trials\.json"):
            ran(capsys, recipe, whole[0], trials=4)
    finally:
        path.write_bytes(kept)


def test_a_missing_optuna_says_what_to_install(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingTool, match="not installed") as caught:
        ran(capsys, recipe, tmp_path)
    assert caught.value.hint == "pip install 'edgekd[tune]'"
    with pytest.raises(UsageError, match="--param"):
        ran(capsys, recipe, tmp_path, parameters=["x"])
