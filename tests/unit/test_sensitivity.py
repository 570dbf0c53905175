"""`edgekd sensitivity` on a small run of digits: table, picture, JSON, and what it refuses."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgekd import recipe as recipes
from edgekd.commands import current
from edgekd.commands.sensitivity import PICTURE, TABLE, SensitivityOptions, sensitivity
from edgekd.console import Console
from edgekd.errors import RecipeError, UsageError
from edgekd.keys import Settings
from edgekd.pipeline import run, steps_of
from edgekd.stages import quantize
from edgekd.stages.base import RunContext

TINY = {
    "name": "tiny",
    "data": {"use": "digits", "train": 300},
    "student": {"model": "resnet8", "fit": {"epochs": 1, "lr": 0.1, "device": "cpu"}},
    "distill": {"use": "ce"},
    "quantize": {"images": 32, "calibrate": "minmax"},
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sensitivity")
    recipe = recipes.from_dict(TINY, "tiny")
    settings = Settings(folder, (), None, Console(quiet=True), 1)
    run(recipe, steps_of(recipe, until="graph"), settings, lambda done: current.record(folder, recipe, None, done))
    return folder


@pytest.fixture
def options(workspace):
    return SensitivityOptions(None, None, None, None, 60, workspace, None, 1, True)


def facts(options, capsys):
    sensitivity(options)
    return json.loads(capsys.readouterr().out)


def test_every_layer_is_in_the_json_the_table_and_the_picture(options, tmp_path, capsys):
    shown = facts(replace(options, output=tmp_path / "out"), capsys)
    kept = json.loads((tmp_path / "out" / TABLE).read_text())
    assert {key: shown[key] for key in kept} == kept and shown["schema_version"] >= 1
    assert (shown["role"], shown["images"], shown["scheme"], shown["quantizer"]) == ("train", 60, "u8s8", "ptq")
    names = [row["layer"] for row in shown["layers"]]
    assert len(names) == 10 and sum(row["operator"] == "Conv" for row in shown["layers"]) == 9
    noise = {row["layer"]: row["sqnr_db"] for row in shown["layers"]}
    assert shown["most_sensitive_first"] == sorted(names, key=noise.__getitem__)
    assert all(shown["all"]["sqnr_db"] < value for value in noise.values())
    assert (tmp_path / "out" / PICTURE).read_bytes().startswith(b"\x89PNG")
    sensitivity(replace(options, json=False))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:11]] == shown["most_sensitive_first"]
    assert lines[-1].startswith("next: edgekd quantize --set quantize.use=mixed")
    assert (options.workspace / "reports" / "tiny" / TABLE).is_file()


def test_another_scheme_quantizer_and_start(options, capsys):
    graph = next(iter((options.workspace / "artifacts" / "graph").iterdir())).name
    shown = facts(replace(options, source=f"graph/{graph}", scheme="s8-trt"), capsys)
    assert shown["scheme"] == "s8-trt" and shown["graph"] == f"graph/{graph}"
    mixed = facts(replace(options, overrides=["quantize.use=mixed"]), capsys)
    assert mixed["quantizer"] == "mixed" and len(mixed["layers"]) == len(shown["layers"])
    half = facts(replace(options, overrides=["quantize.use=fp16"]), capsys)
    assert half["quantizer"] == "ptq"  # which has layers


@pytest.mark.parametrize(("images", "budget"), [(32, "1.2"), (290, "30")])
def test_what_is_to_be_typed_next_is_not_refused(images, budget, options, capsys):
    shown = facts(replace(options, overrides=[f"quantize.images={images}"]), capsys)
    sets = re.findall(r"--set (quantize\S+)", shown["next"])
    assert sets == ["quantize.use=mixed", f"quantize.max_drop_pp={budget}"]
    step = next(
        step.params for step in steps_of(recipes.from_dict(TINY, "tiny", [*sets, f"quantize.images={images}"]))
        if step.kind == "quantized"
    )  # fmt: skip
    context = RunContext((), None, options.workspace, Console(quiet=True), 1, train_images=300, val_images=0)
    quantize.check(step, context)


def test_what_cannot_be_looked_at_is_refused(options, tmp_path):
    with pytest.raises(UsageError, match="nothing was made here"):
        sensitivity(replace(options, workspace=tmp_path))
    with pytest.raises(RecipeError, match="fp16"):
        sensitivity(replace(options, scheme="fp16"))
    with pytest.raises(RecipeError, match="every image"):
        sensitivity(replace(options, overrides=["quantize.images=300"]))
    with pytest.raises(UsageError, match="was not run"):
        sensitivity(replace(options, recipe="quickstart"))


def test_a_run_without_a_graph_says_how_to_make_one(options, tmp_path):
    recipe = recipes.from_dict(TINY, "tiny")
    settings = Settings(Path(tmp_path), (), None, Console(quiet=True), 1)
    run(recipe, steps_of(recipe, until="data"), settings, lambda done: current.record(tmp_path, recipe, None, done))
    with pytest.raises(UsageError, match="edgekd quantize"):
        sensitivity(replace(options, workspace=tmp_path))
