"""Which targets a recipe and `--format` name, families among them, and which of them can be measured."""

from types import SimpleNamespace

import pytest

from edgekd import boards, profiles, registry, targets
from edgekd import recipe as recipes
from edgekd.commands import bundle
from edgekd.commands.say_targets import say_targets
from edgekd.errors import EngineMismatch, MissingTool, RecipeError
from edgekd.plan import plan
from edgekd.transport import ssh

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


@pytest.fixture
def board(monkeypatch, tmp_path):
    """`board(family, chip)`: the user's board `three` with a Rockchip NPU of that family; nothing can connect to it."""

    def connects(*given, **more):
        raise AssertionError(given)

    def add(family, chip=""):
        own = f", chip: {chip}" if chip else ""
        text = f"name: own-{family}\nfamily: {family}\ntransport: ssh\nprecisions: [fp32, int8]\nruntimes:\n"
        text += f"  rknn: {{provider: NPU{own}}}\n  onnxruntime: {{provider: CPUExecutionProvider}}\n"
        (tmp_path / "own.yaml").write_text(text)
        boards.write(boards.Board(name="three", profile=str(tmp_path / "own.yaml"), host="me@three"))

    monkeypatch.setattr(ssh.Link, "push", connects)
    monkeypatch.setattr(ssh.Link, "_ask", connects)
    monkeypatch.setenv("EDGEKD_CONFIG", str(tmp_path))
    return add


def of_board(*export):
    return recipe(*export, bench={"device": "three"})


@pytest.mark.parametrize("asked", [["rknn-rk3588"], ["rknn"], ["onnx", "rknn-rk3588"]], ids=["name", "family", "among"])
def test_a_file_for_another_chip_of_the_same_maker_is_refused_before_anything_is_pushed(board, asked):
    board("rk3566")
    with pytest.raises(EngineMismatch) as caught:
        plan(of_board("onnx"), targets=asked)
    error = caught.value
    assert error.exit_code == 8 and error.where == "target rknn-rk3588"
    assert "is for rk3588, and three is a rk3566 (own-rk3566)" in error.found and "rk3566" in error.expected
    assert error.hint == "edgekd bench --format rknn-rk3566 --device three"
    assert names(plan(of_board("onnx"), targets=["rknn-rk3566"]))[-1] == "bench/rknn-rk3566@three"


def test_of_a_recipe_with_files_for_several_chips_the_boards_own_is_measured(board):
    board("rk3566")
    own = of_board("rknn-rk3588", "rknn-rk3566")
    assert [name for name in names(plan(own)) if name.startswith("bench/")] == ["bench/rknn-rk3566@three"]
    (line,) = [line for line in heard("run", own) if line.startswith("not measured")]
    assert "rknn-rk3588" in line and "edgekd bench --format rknn-rk3566 --device three" in line
    with pytest.raises(EngineMismatch, match="is for rk3588"):
        heard("bench", of_board("rknn-rk3588"))


def test_a_chip_for_which_no_target_is_shipped_is_told_what_there_is(board):
    board("rk3562")
    with pytest.raises(EngineMismatch) as caught:
        plan(of_board("onnx"), targets=["rknn"])
    assert caught.value.hint == "edgekd formats"


def test_a_profile_may_say_the_chip_where_its_family_is_another_word(board):
    board("own-boards", chip="rk3588")
    assert names(plan(of_board("onnx"), targets=["rknn"]))[-1] == "bench/rknn-rk3588@three"
    board("own-boards")
    with pytest.raises(EngineMismatch, match="is a own-boards"):
        plan(of_board("onnx"), targets=["rknn"])


def test_a_bundle_for_another_chip_is_refused(board):
    board("rk3566")
    export = SimpleNamespace(manifest={"params": {"target": "rknn-rk3588"}})
    with pytest.raises(EngineMismatch) as caught:
        bundle._params(export, of_board("onnx"), profiles.device("three"))
    assert caught.value.hint == "edgekd bundle --format rknn-rk3566 --device three"


def test_files_for_one_chip_name_it_and_a_shipped_device_can_take_them():
    found = registry.plugins("exporters").items()
    chips = {name: p.attributes["chip_named_by"] for name, p in found if p.attributes.get("chip_named_by")}
    assert chips
    for name, argument in chips.items():
        assert argument in {a.name for a in registry.find("exporters", name).arguments}
        own = [target for target in profiles.targets().values() if target.exporter == name]
        assert own and all(targets.chip_of(target) for target in own)
        for device in profiles.devices().values():
            for runtime in set(device.runtimes) & {one for target in own for one in target.runtimes}:
                assert any(targets.fits(device, runtime, target) for target in own), device.name


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
