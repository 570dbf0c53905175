"""The gate in a real chain on the embedded digits: what it stops, what it keeps, what it says, and that it says so again."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from edgekd import integrity
from edgekd import recipe as recipes
from edgekd.analysis import marks, resolution
from edgekd.console import Console
from edgekd.data.digits import Digits
from edgekd.errors import CheckFailed, IntegrityError, RecipeError, StageFailed
from edgekd.keys import Settings
from edgekd.pipeline import run, steps_of
from edgekd.predictions import FILE
from edgekd.stages import export, toolchain
from edgekd.store import Store

TINY = {
    "name": "tiny",
    "data": {"use": "digits", "train": 200},
    "student": {"model": "resnet8", "fit": {"epochs": 2, "lr": 0.1, "device": "cpu"}},
    "distill": {"use": "ce"},
    "quantize": {"images": 32},
}
# A loss of nothing on the 359 test images of the digits has a bound of 0.83 pp: too coarse for half a point.
TIGHT = ("gate.max_drop_pp=5", "gate.stages.quantized=0.5")
BEHIND = "export/onnx-int8"


def go(workspace, *overrides, until="export"):
    recipe = recipes.from_dict(TINY, "tiny", overrides)
    outcomes = run(recipe, steps_of(recipe, until=until), Settings(workspace, (), None, Console(quiet=True), 1))
    return {o.step.name: o for o in outcomes}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    workspace = tmp_path_factory.mktemp("gate")
    return workspace, go(workspace)


@pytest.fixture
def workspace(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "w")
    return tmp_path / "w"


@pytest.fixture
def taken(monkeypatch):
    """Any budget is taken, so that a sound file can fail one."""
    monkeypatch.setattr(resolution, "require", lambda *asked: None)


def without(workspace, step):
    """The workspace with no artifact of a step."""
    for artifact in Store(workspace).of(step):
        Store(workspace).remove(artifact.path)


def test_a_gate_changes_no_key_and_a_sound_chain_passes(workspace, made):
    again = go(workspace, "gate.max_drop_pp=5")
    assert {o.state for o in again.values()} == {"reused"}
    assert [o.artifact.id for o in again.values()] == [o.artifact.id for o in made[1].values()]
    for step in ("graph", "quantized/u8s8"):
        mark = marks.read(workspace, again[step].artifact.id)
        assert mark["passed"] and mark["recipe"] == "tiny" and mark["budget_pp"] == 5 and mark["n"] == 359
    assert all(not integrity.verify(artifact) for artifact in Store(workspace).all())


def test_a_failed_gate_stops_what_stands_behind_it_and_nothing_else(workspace, made, taken):
    without(workspace, BEHIND), without(workspace, "export/onnx")
    with pytest.raises(CheckFailed) as error:
        go(workspace, *TIGHT)
    assert error.value.exit_code == 3 and error.value.where == made[1]["quantized/u8s8"].artifact.id
    for part in ("drop", "95 % bound", "of 0.5 pp", "n=359", "lost", "gained"):
        assert part in error.value.found, part
    assert error.value.expected == "a bound of at most 0.5 pp" and "gate.stages.quantized=N" in error.value.hint
    store = Store(workspace)
    assert [len(list(store.of(step))) for step in ("quantized/u8s8", BEHIND, "export/onnx")] == [1, 0, 1]
    assert not marks.read(workspace, error.value.where)["passed"]


def test_a_failed_gate_fails_again_on_a_cached_run_and_a_larger_budget_goes_on(workspace, taken):
    for _ in range(2):
        with pytest.raises(CheckFailed):
            go(workspace, *TIGHT)
    without(workspace, BEHIND)
    again = go(workspace, "gate.max_drop_pp=5", "gate.stages.quantized=4")
    assert again["quantized/u8s8"].state == "reused" and again[BEHIND].state == "made"
    assert marks.read(workspace, again["quantized/u8s8"].artifact.id)["passed"]


def test_every_file_that_fails_is_named(workspace, taken):
    with pytest.raises(CheckFailed) as error:
        go(workspace, "gate.max_drop_pp=0.5")
    assert error.value.where.startswith("graph/") and "quantized" not in error.value.found  # that one was left out
    assert not marks.read(workspace, error.value.where)["passed"]


def test_a_tool_chain_that_fails_takes_its_own_target_and_what_stands_behind_it_alone(workspace, monkeypatch, capsys):
    def die(exporter, params, inputs, out, context):
        raise StageFailed(f"export/{params.target}", "worker litert was ended by signal 9\nand said this", "an answer")

    monkeypatch.setattr(toolchain, "run", die)
    monkeypatch.setattr(export, "check", lambda params, context: None)
    targets = ["litert-int8", "ethos-u55-128", "executorch-int8", "onnx"]
    recipe = recipes.from_dict(TINY, "tiny")
    told = Settings(workspace, (), None, Console(), 1)
    without(workspace, "export/onnx")
    with pytest.raises(StageFailed) as error:
        run(recipe, steps_of(recipe, until="export", targets=targets), told)
    assert error.value.exit_code == 7 and error.value.where == "export/litert-int8"
    assert error.value.found.endswith("export/executorch-int8: worker litert was ended by signal 9\nand said this")
    assert [artifact.step for artifact in Store(workspace).all() if "/litert" in artifact.step] == []
    assert len(list(Store(workspace).of("export/onnx"))) == 1
    said = capsys.readouterr().err
    assert "failed  export/litert-int8  (worker litert was ended by signal 9)\n" in said
    assert "left out export/ethos-u55-128  (behind export/litert-int8, which could not be made)" in said


@pytest.mark.parametrize("until", ["teacher", "student", "export"])
def test_a_budget_that_cannot_be_resolved_is_refused_by_every_command_before_work(tmp_path, until):
    if until == "teacher":
        recipe = recipes.from_dict({**TINY, "teacher": TINY["student"]}, "tiny", ["gate.max_drop_pp=0.5"])
    else:
        recipe = recipes.from_dict(TINY, "tiny", ["gate.max_drop_pp=0.5"])
    with pytest.raises(RecipeError, match="cannot be resolved with 359 test images") as error:
        steps_of(recipe, until=until)
    assert "test images: it must pass" in error.value.expected


def test_of_data_of_unknown_size_it_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(Digits, "expected", None)
    with pytest.raises(RecipeError, match="cannot be resolved with 359 test images"):
        go(tmp_path, "gate.max_drop_pp=0.5", until="student")
    assert [artifact.step for artifact in Store(tmp_path).all()] == ["data"]


def test_the_gate_rests_on_answers_that_were_sealed(workspace, made):
    path = workspace / "artifacts" / made[1]["quantized/u8s8"].artifact.id / FILE
    shutil.copy(workspace / "artifacts" / made[1]["data"].artifact.id / "data.json", path)
    with pytest.raises(IntegrityError, match="other bytes than were sealed"):
        go(workspace, "gate.max_drop_pp=5")


@pytest.mark.parametrize("text", ["{", "[]", '{"passed": "yes", "text": ""}', '{"passed": true}'])
def test_a_damaged_mark_is_named(workspace, made, text):
    go(workspace, "gate.max_drop_pp=5")
    artifact = made[1]["graph"].artifact.id
    (mark,) = (workspace / "gates").glob("graph~*.json")
    mark.write_text(text)
    with pytest.raises(IntegrityError, match="is damaged"):
        marks.read(workspace, artifact)
    go(workspace, "gate.max_drop_pp=5")
    assert marks.read(workspace, artifact)["passed"]


UNCHECKED = """
import sys
from edgekd.analysis import resolution
resolution.require = lambda *asked: None
from edgekd.cli import main
main()
"""
NO_TORCH = """
import sys
from edgekd.cli import main
code = 0
try:
    main()
except SystemExit as stop:
    code = stop.code or 0
assert not {"torch", "torchvision", "onnxsim", "onnxruntime"} & set(sys.modules), "imported"
sys.exit(code)
"""


def typed(program, home, *argv):
    environment = {**os.environ, "COLUMNS": "200"}
    environment.pop("EDGEKD_WORKSPACE", None)
    command = [sys.executable, "-c", program, *argv]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def home(made, tmp_path_factory):
    """A folder whose run has failed the gate, as typed."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(made[0], folder / "workspace")
    gate = {"max_drop_pp": 5.0, "stages": {"quantized": 0.5}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "gate": gate}))
    done = typed(UNCHECKED, folder, "export", "--recipe", "tiny.yaml", "--format", "onnx-int8")
    assert done.returncode == 3, done.stderr
    assert "left out export/onnx-int8" in done.stderr and "error: quantized/u8s8/" in done.stderr
    return folder


def test_the_ledger_ends_with_3_and_shows_every_row(home):
    done = typed(NO_TORCH, home, "ledger", "--json")
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)
    assert found["schema_version"] == 1 and found["passed"] is False and found["error"]["exit_code"] == 3
    assert [row["step"] for row in found["rows"]] == ["student", "graph", "quantized/u8s8"]
    student, graph, quantized = found["rows"]
    assert student["origin"] is None and student["gate"] is None
    assert graph["gate"]["passed"] and graph["origin"]["changed"] == 0 and graph["previous"]["to"] == "student"
    assert not quantized["gate"]["passed"] and quantized["gate"]["budget_pp"] == 0.5
    assert quantized["previous"]["to"] == "graph" and quantized["origin"]["to"] == "student"
    assert "FAILED (0.5 pp)" in typed(NO_TORCH, home, "ledger").stdout


def test_the_mark_is_listed_and_shown(home):
    listed = typed(NO_TORCH, home, "artifacts", "ls")
    (line,) = [line for line in listed.stdout.splitlines() if line.startswith("quantized/u8s8")]
    assert "FAILED the gate" in line and listed.stdout.count("FAILED") == 1
    shown = json.loads(typed(NO_TORCH, home, "artifacts", "show", "quantized/u8s8", "--json").stdout)
    assert shown["gate"]["passed"] is False and shown["gate"]["recipe"] == "tiny"
    assert "FAILED" in typed(NO_TORCH, home, "artifacts", "show", "quantized/u8s8").stdout


def test_the_report_has_the_ledger(home):
    done = typed(NO_TORCH, home, "report", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["gate"] and row["gate"]["passed"] for row in found["ledger"]] == [None, True, False]
    assert 'id="ledger"' in (home / "workspace" / "reports" / "tiny" / "report.html").read_text()
    assert "FAILED (0.5 pp)" in typed(NO_TORCH, home, "report").stdout


def test_the_chain_of_an_artifact_is_found_in_both_directions(home):
    for named in ("student", "quantized/u8s8"):
        found = json.loads(typed(NO_TORCH, home, "ledger", "--from", named, "--json").stdout)
        assert [row["step"] for row in found["rows"]] == ["student", "graph", "quantized/u8s8"], named
        assert found["gate"] is None  # the artifacts were made before there was one


def test_a_recipe_is_looked_up_and_nothing_is_made(home):
    before = sorted((home / "workspace" / "artifacts").rglob("*"))
    done = typed(UNCHECKED, home, "ledger", "--recipe", "tiny.yaml", "--set", "gate.stages.quantized=4")
    assert done.returncode == 0, done.stderr
    assert "passed (4 pp)" in done.stdout and done.stdout.rstrip().splitlines()[-1].startswith("next: ")
    assert sorted((home / "workspace" / "artifacts").rglob("*")) == before
    empty = typed(UNCHECKED, home, "ledger", "--recipe", "tiny.yaml", "--set", "seed=7")
    assert empty.returncode == 2 and "nothing was evaluated" in empty.stderr


def test_validate_refuses_what_the_digits_cannot_show(home):
    done = typed(NO_TORCH, home, "recipes", "validate", "tiny.yaml")
    assert done.returncode == 2 and "tiny.yaml:" in done.stderr and "gate.stages.quantized" in done.stderr
    allowed = ("--set", "gate.stages.quantized=4")
    assert typed(NO_TORCH, home, "recipes", "validate", "tiny.yaml", *allowed).returncode == 0
