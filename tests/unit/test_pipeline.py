"""The loop on the embedded digits, with the smallest networks and two epochs: what is kept, what is made, and why."""

import json
import shutil
from pathlib import Path

import pytest

from edgekd import integrity, manifest
from edgekd import recipe as recipes
from edgekd.console import Console
from edgekd.errors import CheckFailed, IntegrityError, RecipeError, StageFailed, UsageError
from edgekd.fit.resolve import resolve
from edgekd.keys import Settings
from edgekd.pipeline import dry_run, run, steps_of
from edgekd.recipe import Fit
from edgekd.stages import graph, quantize
from edgekd.store import Store

TINY = {
    "name": "tiny",
    "data": {"use": "digits", "train": 200},
    "teacher": {"model": "resnet8", "fit": {"epochs": 1, "lr": 0.1, "device": "cpu"}},
    "student": {"model": "resnet8", "fit": {"epochs": 1, "lr": 0.1, "device": "cpu"}},
    "distill": {"use": "kd"},
    "quantize": {"images": 32},
    "bench": {"profile": "smoke"},
}


def settings(workspace: Path, **more) -> Settings:
    return Settings(workspace, (), None, Console(quiet=True), 1, **more)


def go(workspace, until="student", *overrides, **more):
    recipe = recipes.from_dict(TINY, "tiny", overrides)
    return {o.step.name: o for o in run(recipe, steps_of(recipe, until=until), settings(workspace, **more))}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    workspace = tmp_path_factory.mktemp("pipeline")
    return workspace, go(workspace)


@pytest.fixture
def workspace(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "w")
    return tmp_path / "w"


def states(outcomes):
    return {name: o.state for name, o in outcomes.items()}


def test_a_second_run_keeps_everything(workspace, made):
    again = go(workspace)
    assert states(again) == dict.fromkeys(("data", "teacher", "student"), "reused")
    assert [o.artifact.id for o in again.values()] == [o.artifact.id for o in made[1].values()]


def test_one_value_remakes_its_step_and_those_behind_it(workspace):
    again = go(workspace, "student", "distill.temperature=2")
    assert states(again) == {"data": "reused", "teacher": "reused", "student": "made"}
    assert again["student"].why == "distill.args.temperature: absent -> 2"


def test_the_same_bytes_from_another_key_stop_the_ripple(workspace):
    """A teacher made anew with the same result gives the student the same input: nothing behind it is remade."""
    again = go(workspace, force=frozenset({"teacher"}))
    assert states(again) == {"data": "reused", "teacher": "made", "student": "reused"}


def test_two_workspaces_give_the_same_ids(tmp_path, made):
    assert [o.artifact.id for o in go(tmp_path).values()] == [o.artifact.id for o in made[1].values()]


def test_naming_the_device_that_auto_means_is_the_same_key(workspace):
    if resolve(Fit()).device != "cpu":
        pytest.skip("auto means another device than cpu here")
    assert go(workspace, "student", "student.fit.device=auto")["student"].state == "reused"


def test_no_manifest_holds_a_machine_path(workspace, made):
    for artifact in Store(workspace).all():
        text = json.dumps(artifact.manifest)
        assert str(made[0]) not in text and str(Path.home()) not in text


def test_dry_run_makes_nothing(tmp_path):
    recipe = recipes.from_dict(TINY, "tiny")
    outcomes = dry_run(steps_of(recipe), settings(tmp_path / "w"))
    assert {o.state for o in outcomes} == {"to make"}
    assert not (tmp_path / "w").exists()


def test_dry_run_on_a_made_chain_knows_what_is_kept(workspace):
    recipe = recipes.from_dict(TINY, "tiny", ["distill.temperature=3"])
    outcomes = {o.step.name: o for o in dry_run(steps_of(recipe, until="graph"), settings(workspace))}
    assert states(outcomes) == {"data": "reused", "teacher": "reused", "student": "to make", "graph": "to make"}
    assert "temperature" in outcomes["student"].why and outcomes["graph"].why == "after student"


def test_every_step_is_kept_as_soon_as_it_is_made(tmp_path, monkeypatch):
    def fail(*args):
        raise CheckFailed("graph", "not equal")

    monkeypatch.setattr(graph, "run", fail)
    recipe, seen = recipes.from_dict(TINY, "tiny"), []
    with pytest.raises(CheckFailed):
        run(recipe, steps_of(recipe, until="graph"), settings(tmp_path), lambda done: seen.append(len(done)))
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(
    "override", ["distill.temperature=4", "distill.temperature=4.0", "quantize.images=32", "distill.ce_weight=0.1"]
)
def test_another_spelling_of_the_same_recipe_is_the_same_key(workspace, override):
    assert set(states(go(workspace, "student", override)).values()) == {"reused"}


def test_a_pin_that_the_recipe_contradicts_is_refused(workspace, made):
    pins = {a.step: a for a in Store(workspace).all()}
    with pytest.raises(UsageError, match="temperature"):
        go(workspace, "graph", "distill.temperature=2", pins=pins)
    assert states(go(workspace, "graph", pins=pins))["graph"] == "made"


def test_an_expected_figure_is_asked_for_on_every_run(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "w")
    teacher = made[1]["teacher"].artifact
    right = f"teacher.expect_top1={teacher.metrics['top1_percent']:.2f}"
    assert set(states(go(tmp_path / "w", "teacher", right)).values()) == {"reused"}
    with pytest.raises(CheckFailed, match="top-1 on test is"):
        go(tmp_path / "w", "teacher", "teacher.expect_top1=99.5")


def test_without_git_a_step_is_sealed_all_the_same(monkeypatch):
    monkeypatch.setenv("PATH", "")
    manifest.source.cache_clear()
    assert len(manifest.source()["sha256"]) == 64
    manifest.source.cache_clear()


def test_a_manifest_keeps_no_absolute_path(tmp_path):
    values = {**TINY, "data": {"use": "imagefolder", "path": str(tmp_path / "photos")}}
    assert manifest._portable(recipes.from_dict(values, "x"))["data"]["path"] == "photos"


def test_every_check_comes_before_the_first_work(tmp_path, monkeypatch):
    def refuse(params, context):
        raise RecipeError("quantize.calibrate", "refused late in the chain")

    monkeypatch.setattr(quantize, "check", refuse)
    with pytest.raises(RecipeError, match="refused late"):
        go(tmp_path, "quantized")
    assert Store(tmp_path).all() == []


def test_a_failed_step_keeps_what_was_finished(workspace, monkeypatch):
    def fail(*args):
        raise CheckFailed("graph", "not equal")

    with monkeypatch.context() as patch:
        patch.setattr(graph, "run", fail)
        with pytest.raises(CheckFailed):
            go(workspace, "graph")
    assert {a.step for a in Store(workspace).all()} == {"data", "teacher", "student"}
    assert states(go(workspace, "graph"))["graph"] == "made"


def test_a_refused_run_does_not_take_the_place_of_the_one_that_was_there(workspace):
    """What is refused before work is no run; one that is wholly there, or that makes something, is."""
    kept = []

    def keep(outcomes):
        kept.append([one.step.name for one in outcomes])

    def started(until, *overrides):
        recipe = recipes.from_dict(TINY, "tiny", overrides)
        run(recipe, steps_of(recipe, until=until), settings(workspace), keep)

    with pytest.raises(RecipeError):
        started("quantized", "quantize.images=5000")
    assert kept == []
    started("student")
    assert kept[-1] == ["data", "teacher", "student"]
    started("graph")
    assert kept[1] == ["data", "teacher", "student"] and kept[-1] == ["data", "teacher", "student", "graph"]


def test_nothing_is_made_from_a_damaged_input(workspace):
    (labels,) = (workspace / "artifacts" / "data").glob("*/labels_train.npy")
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x07")
    with pytest.raises(IntegrityError, match="labels_train"):
        go(workspace, "student", "distill.temperature=2")
    assert len(list((workspace / "artifacts" / "student").iterdir())) == 1


def test_a_write_that_says_no_errno_is_a_stage_failure_too(workspace, monkeypatch):
    def short(*args):
        raise OSError("4096 requested and 100 written")  # NumPy, on a full disk

    monkeypatch.setattr(graph, "run", short)
    with pytest.raises(StageFailed, match="100 written"):
        go(workspace, "graph")


def test_the_machines_refusals_are_stage_failures(workspace, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device", "model.onnx")

    monkeypatch.setattr(graph, "run", full)
    with pytest.raises(StageFailed, match="No space left on device") as caught:
        go(workspace, "graph")
    assert caught.value.exit_code == 7


def test_what_is_made_behind_a_pinned_artifact_is_made_from_it(workspace):
    other = go(workspace, "student", "distill.temperature=2")["student"].artifact
    pins = {a.step: a for a in Store(workspace).all() if a.step != "student"} | {"student": other}
    outcomes = go(workspace, "graph", "distill.temperature=2", pins=pins)
    assert outcomes["student"].artifact.id == other.id
    assert outcomes["graph"].artifact.inputs["student"] == other.id


def test_everything_made_is_whole(workspace):
    found = Store(workspace).all()
    assert len(found) == 3
    assert all(integrity.verify(a) == [] for a in found)
