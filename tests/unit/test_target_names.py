"""Which targets a recipe and `--format` name, families among them, and which of them can be measured."""

import pytest

from edgekd import boards, profiles, targets
from edgekd import recipe as recipes
from edgekd.commands.say_targets import say_targets
from edgekd.errors import MissingTool, RecipeError
from edgekd.plan import plan

BOARD = """
name: board
family: cpu
transport: local
runtimes:
  onnxruntime: {provider: CPUExecutionProvider}
precisions: [fp32, int8]
"""


class Heard:
    """A console that remembers."""

    def __init__(self):
        self.lines = []

    def log(self, line):
        self.lines.append(line)


def recipe(*export, **more):
    values = {
        "name": "own",
        "data": {"use": "digits"},
        "student": {"model": "resnet8", "fit": {"epochs": 1}},
        "distill": {"use": "ce"},
        "export": list(export),
    }
    return recipes.from_dict({**values, **more}, "own")


def names(steps):
    return [step.name for step in steps]


def heard(command, own, asked=None):
    console = Heard()
    goal = "bench" if command == "run" else command
    say_targets(command, own, asked, plan(own, until=goal, targets=asked), console)
    return console.lines


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        (recipe("onnx"), "tensorrt-fp16"),
        (recipe("onnx", "onnx-int8"), "tensorrt-int8"),
        (recipe("trt"), "tensorrt-fp16"),
        (recipe("tensorrt-int8"), "tensorrt-int8"),
        (recipe("tensorrt-fp16", "onnx"), "tensorrt-fp16"),
        (recipe("onnx", qat={"epochs": 1}), "tensorrt-int8"),
    ],
    ids=["float", "int8", "nothing else", "int8 of the family", "half", "trained for int8"],
)
def test_a_family_is_its_target_of_the_recipes_precision(own, wanted):
    assert targets.resolve_targets(["trt"], "--format", own) == [wanted]
    assert names(plan(own, until="export", targets=["trt"]))[-1] == f"export/{wanted}"
    assert any(line.startswith(f"trt: {wanted} (") for line in heard("export", own, ["trt"]))


def test_a_family_in_a_recipe_is_resolved_and_counted_once():
    steps = names(plan(recipe("onnx-int8", "trt", "tensorrt-int8"), until="export"))
    assert steps[-2:] == ["export/onnx-int8", "export/tensorrt-int8"]
    assert "quantized/s8-trt" in steps and "quantized/u8s8" in steps


def test_a_family_of_a_quantized_file_is_int8():
    own = recipes.from_dict(
        {
            "name": "own",
            "data": {"use": "digits"},
            "student": {"onnx": "x.onnx", "scheme": "s8-trt"},
            "export": ["trt"],
        },
        "own",
    )
    assert targets.resolve_targets(["trt"], "export", own) == ["tensorrt-int8"]


def test_the_name_of_a_target_is_not_taken_for_its_family():
    assert targets.resolve_targets(["onnx"], "export", recipe("onnx-int8")) == ["onnx"]


def test_a_mistyped_family_names_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'trt'"):
        targets.resolve_targets(["trtt"], "--format", recipe("onnx"))


def test_a_family_without_one_target_of_the_precision_is_refused(monkeypatch):
    known = profiles.targets()
    known["other"] = known["tensorrt-int8"].model_copy(update={"name": "other"})
    monkeypatch.setattr(profiles, "targets", lambda: known)
    with pytest.raises(RecipeError) as caught:
        targets.resolve_targets(["trt"], "--format", recipe("onnx-int8"))
    assert "2 targets of int8" in caught.value.found and "other" in caught.value.expected


def test_run_exports_what_it_cannot_measure_and_says_so():
    own = recipe("onnx", "tensorrt-fp16")
    assert names(plan(own))[-3:] == ["export/onnx", "export/tensorrt-fp16", "bench/onnx@cpu"]
    for command in ("run", "bench"):
        lines = [line for line in heard(command, own) if line.startswith("not measured: tensorrt-fp16")]
        assert len(lines) == 1 and "a board with tensorrt" in lines[0]


def test_run_with_nothing_to_measure_still_exports():
    own = recipe("trt")
    assert names(plan(own))[-1] == "export/tensorrt-fp16"
    assert any("not measured: tensorrt-fp16" in line for line in heard("run", own))


@pytest.mark.parametrize("asked", [None, ["trt"], ["tensorrt-fp16", "onnx"]], ids=["recipe", "family", "among others"])
def test_bench_of_a_target_that_no_device_runs_is_refused_before_work(asked):
    with pytest.raises(MissingTool) as caught:
        heard("bench", recipe("trt"), asked)
    assert caught.value.exit_code == 5 and "a board with tensorrt" in caught.value.found
    assert "edgekd export --format tensorrt-fp16" in caught.value.hint


def test_a_device_elsewhere_that_could_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEKD_CONFIG", str(tmp_path))
    boards.write(boards.Board(name="orin", profile="jetson-orin-nano", host="me@orin"))
    reason = targets.unmeasured(recipe("trt"), profiles.target("tensorrt-fp16"))
    assert "orin" in reason and "cpu has onnxruntime" in reason


def test_every_shipped_target_has_a_family_whose_name_is_no_other_target():
    known = profiles.targets()
    assert {"tensorrt-int8", "tensorrt-fp16"} <= set(known)
    for target in known.values():
        own = recipe("onnx-int8" if profiles.precision(target.scheme) == "int8" else "onnx")
        if target.family not in known and target.family != "onnx":
            (found,) = targets.resolve_targets([target.family], "export", own)
            assert found == target.name or (known[found].default and known[found].family == target.family)


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize(("family", "wanted"), [("rknn", "rknn-rk3588"), ("qnn", "qnn-int8")])
def test_a_family_of_one_precision_means_it_and_of_several_chips_its_default(family, wanted, quantized):
    assert targets.resolve_targets([family], "--format", recipe("onnx"), quantized) == [wanted]


def test_a_family_has_at_most_one_default_of_a_precision():
    marked = [(t.family, profiles.precision(t.scheme)) for t in profiles.targets().values() if t.default]
    assert marked and len(set(marked)) == len(marked)
