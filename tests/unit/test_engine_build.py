"""`edgekd export --format trt [--build here|device]` on a machine without TensorRT or GPU. No engine is built in any of it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgekd import recipe as recipes
from edgekd.commands import chain, engine_build
from edgekd.commands.side_by_side import Together
from edgekd.errors import MissingTool, UsageError
from edgekd.pipeline import Outcome, steps_of
from edgekd.runner.failure import MISSING, RunnerError
from edgekd.runner.runtimes import base
from edgekd.runner.trt import gpu
from tests.onnxtoys import artifact

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


@pytest.fixture(scope="module")
def recipe():
    return recipes.load(RECIPE, [])


def missing(*arguments, **keywords):
    raise RunnerError(MISSING, "NVIDIA driver", "libcuda.so.1: not found")


@pytest.fixture
def bare(monkeypatch):
    """`bare(bindings, trtexec, cuda, driver)`: which of them this machine has."""

    def have(*there):
        monkeypatch.setattr(engine_build.util, "find_spec", lambda name: object() if "bindings" in there else None)
        monkeypatch.setattr(engine_build, "find_program", lambda: "trtexec" if "trtexec" in there else None)
        monkeypatch.setattr(engine_build, "Cuda", dict if "cuda" in there else missing)
        monkeypatch.setattr(gpu, "facts", dict if "driver" in there else missing)

    return have


@pytest.mark.parametrize("targets", [["trt"], ["tensorrt-int8", "tensorrt-fp16"], ["onnx-int8"], ["trt", "onnx"]])
def test_the_files_that_become_engines_are_those_of_tensorrt(recipe, targets):
    found = engine_build.engines(steps_of(recipe, until="export", targets=targets))
    wanted = {"trt": "tensorrt-int8"}
    named = [wanted.get(name, name) for name in targets]
    assert found == [f"export/{name}" for name in named if name.startswith("tensorrt")]


@pytest.mark.parametrize(
    ("there", "lacking"),
    [
        ((), 3),
        (("bindings",), 2),
        (("bindings", "cuda"), 1),
        (("trtexec",), 1),
        (("bindings", "driver"), 1),
        (("bindings", "cuda", "driver"), 0),
        (("trtexec", "driver"), 0),
    ],
)
def test_each_missing_thing_is_named(bare, recipe, there, lacking):
    bare(*there)
    assert len(engine_build.lacking()) == lacking
    steps = steps_of(recipe, until="export", targets=["trt"])
    if not lacking:
        engine_build.require(steps)
        return
    with pytest.raises(MissingTool) as caught:
        engine_build.require(steps)
    assert caught.value.where == "--build here" and caught.value.found.count("; no ") == lacking - 1
    assert ("no TensorRT" in caught.value.found) == (not {"bindings", "trtexec"} & set(there))


def test_a_target_without_an_engine_is_a_usage_error(bare, recipe):
    bare("bindings", "cuda", "driver")
    with pytest.raises(UsageError, match="export/onnx has no engine"):
        engine_build.require(steps_of(recipe, until="export", targets=["trt", "onnx"]))


def exported(recipe, targets, tmp_path):
    """The outcome of an export, its artifacts made by hand."""
    outcomes = []
    for step in steps_of(recipe, until="export", targets=targets):
        folder = tmp_path / step.name / "11111111-22222222"
        folder.mkdir(parents=True)
        outcomes.append(Outcome(step, "made", "not made before", artifact(step.name, folder), 1.0))
    return Together(outcomes, {})


def options(tmp_path, as_json):
    return chain.ChainOptions("export", None, tmp_path, None, None, None, False, False, None, None, as_json, ["trt"])


@pytest.mark.parametrize("as_json", [True, False])
def test_it_says_that_the_engine_is_built_on_the_device_and_what_to_type(recipe, tmp_path, capsys, as_json):
    found = exported(recipe, ["trt"], tmp_path)
    group = type("Group", (), {"world": 1})()
    chain._print(options(tmp_path, as_json), found, [], group, ["export/tensorrt-int8"], {})
    said = capsys.readouterr().out
    following = f"edgekd bundle --format tensorrt-int8 --device jetson-orin-nano --workspace {tmp_path}"
    if as_json:
        facts = json.loads(said)
        assert facts["next"] == following
        assert facts["engines"] == {"export/tensorrt-int8": engine_build.ON_DEVICE}
    else:
        assert engine_build.ON_DEVICE in said and said.rstrip().endswith("next: " + following)


def test_an_engine_that_was_built_here_is_told_apart(recipe, tmp_path, capsys):
    found = exported(recipe, ["trt"], tmp_path)
    group = type("Group", (), {"world": 1})()
    built = {"export/tensorrt-int8": {"golden": {}}}
    here = replace(options(tmp_path, False), build=engine_build.HERE)
    chain._print(here, found, [], group, ["export/tensorrt-int8"], built)
    said = capsys.readouterr().out
    assert f"next: edgekd bench --format tensorrt-int8 --device rtx --workspace {tmp_path}" in said
    assert engine_build.BUILT in said and engine_build.ON_DEVICE not in said


@pytest.mark.parametrize("state", ["made", "reused"])
@pytest.mark.parametrize("checked", [True, False])
def test_a_file_that_no_parser_looked_at_says_so_each_time(recipe, tmp_path, capsys, state, checked):
    """The tool may have been installed since: a reused file is not held to it by itself."""
    metrics = {
        "tool_check": "TensorRT-RTX: not checked: pip install x",
        **({"tool_build_seconds": 1} if checked else {}),
    }
    outcomes = [
        replace(one, state=state, artifact=replace(one.artifact, manifest={**one.artifact.manifest, "metrics": metrics}))
        if one.step.name == "export/tensorrt-int8" else one
        for one in exported(recipe, ["trt"], tmp_path).outcomes
    ]  # fmt: skip
    group = type("Group", (), {"world": 1})()
    chain._print(options(tmp_path, False), Together(outcomes, {}), [], group, ["export/tensorrt-int8"], {})
    typed = f"not checked: pip install x, then edgekd lint export/tensorrt-int8 --workspace {tmp_path}"
    assert (typed in capsys.readouterr().out) is not checked


def test_the_bundle_that_builds_it_runs_in_tensorrt_whatever_the_recipe_measures_with(recipe):
    from edgekd import profiles

    own = recipe.model_copy(update={"bench": recipe.bench.model_copy(update={"runtime": "onnxruntime"})})
    target = profiles.target("tensorrt-int8")
    params = engine_build._params(own, target, profiles.device(engine_build.BUILDER))
    assert (params.runtime, params.provider, params.transport) == ("tensorrt", "TensorRT", "local")
    assert params.runtime in base.names()


@pytest.mark.parametrize(("target", "kind"), [("trt", MissingTool), ("onnx", UsageError)])
def test_it_is_refused_before_anything_is_made(bare, tmp_path, target, kind):
    bare()
    asked = replace(options(tmp_path / "w", False), recipe=str(RECIPE), targets=[target], build=engine_build.HERE)
    with pytest.raises(kind):
        chain.chain("export", asked)
    assert not (tmp_path / "w").exists()


@pytest.mark.skipif(not engine_build.lacking(), reason="TensorRT and a GPU are here")
def test_the_command_says_what_is_missing(tmp_path):
    line = [sys.executable, "-m", "edgekd", "export", "--recipe", str(RECIPE), "--workspace", str(tmp_path / "w")]
    done = subprocess.run([*line, "--format", "trt", "--build", "here"], capture_output=True, text=True, check=False)
    assert done.returncode == 5 and "--build here: no " in done.stderr and "Traceback" not in done.stderr
