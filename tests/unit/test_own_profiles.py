"""A user's own target and device files: known by path, named by their `name:`, refused before anything is made."""

import pytest

from edgekd import profiles
from edgekd import recipe as recipes
from edgekd.analysis import parity
from edgekd.errors import RecipeError
from edgekd.plan import plan

TARGET = {"name": "mine", "family": "onnx", "exporter": "onnx", "scheme": "u8s8", "runtimes": "[onnxruntime]"}
DEVICE = """
name: board
family: cpu
transport: local
runtimes:
  onnxruntime: {provider: CPUExecutionProvider}
precisions: [fp32, int8]
"""


@pytest.fixture
def write(tmp_path):
    """`write(**changed)` -> path of a target file."""

    def written(file="own.yaml", **changed):
        path = tmp_path / file
        path.write_text("".join(f"{key}: {value}\n" for key, value in {**TARGET, **changed}.items() if value))
        return path

    return written


def steps(*targets, device="cpu", **bench):
    recipe = {
        "name": "own",
        "data": {"use": "digits"},
        "student": {"model": "resnet8", "fit": {"epochs": 1}},
        "distill": {"use": "ce"},
        "export": [str(target) for target in targets],
        "bench": {"device": str(device), **bench},
    }
    return {step.name: step for step in plan(recipes.from_dict(recipe, "own", []))}


def test_own_target_and_device_by_path(write, tmp_path):
    device = tmp_path / "device.yaml"
    device.write_text(DEVICE)
    found = steps(write(), "onnx", device=device)
    assert list(found)[-4:] == ["export/mine", "export/onnx", "bench/mine@board", "bench/onnx@board"]
    assert str(tmp_path) not in str([step.params.model_dump() for step in found.values()])
    bench = found["bench/mine@board"].params
    assert (bench.device, bench.target, bench.provider) == ("board", "mine", "CPUExecutionProvider")
    assert (bench.transport, bench.golden_error_to_range) == ("local", profiles.INT8_GOLDEN_ERROR_TO_RANGE)
    assert found["bench/onnx@board"].params.golden_error_to_range == parity.FP32_MAX_ERROR_TO_RANGE


def test_bounds_reach_the_export_and_the_device(write):
    found = steps(write(scheme="none", parity="{max_error_to_range: 1.0e-6}"), "onnx-int8")
    assert found["export/mine"].params.parity == {"max_error_to_range": 1e-6}
    assert found["bench/mine@cpu"].params.golden_error_to_range == 1e-6
    assert found["export/onnx-int8"].params.parity == {"min_agreement_percent": 98, "min_sqnr_db": 25}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"exporter": "onnxx"}, "target mine: exporter"),
        ({"args": "{opset: 17}"}, "no argument 'opset'"),
        ({"scheme": "w4a4"}, "ptq does not make scheme 'w4a4'"),
        ({"parity": "{min_sqnr_db: 10}"}, "min_sqnr_db: Input should be greater than or equal to 25"),
        ({"parity": "{min_agreement_percent: 97.9}"}, "min_agreement_percent"),
        ({"scheme": "none", "parity": "{max_error_to_range: 0.5}"}, "max_error_to_range"),
        ({"parity": "{min_sqnr_db: .nan}"}, "min_sqnr_db"),
        ({"parity": "{max_error_to_range: 1.0e-5}"}, "max_error_to_range is no bound of scheme u8s8"),
        ({"parity": "{snr: 10}"}, "parity.snr"),
        ({"needs": "[onnx]"}, "needs"),
        ({"name": "../../home"}, "name"),
        ({"name": "onnx"}, "are both target onnx"),
        ({"family": ""}, "family"),
    ],
)
def test_a_bad_target_is_refused_before_anything_is_made(write, changed, words):
    with pytest.raises(RecipeError) as caught:
        steps(write(**changed), "onnx")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("transport: local", "transport: pigeon", "unknown name 'pigeon'"),
        ("provider: CPUExecutionProvider", "providers: x", "runtimes.onnxruntime.provider"),
        ("family: cpu", "family: cpu\nhost: -oProxyCommand=true", "user@board"),
    ],
)
def test_a_bad_device_is_refused_before_anything_is_made(tmp_path, old, new, words):
    device = tmp_path / "device.yaml"
    device.write_text(DEVICE.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        steps("onnx", device=device)
    assert words in str(caught.value)


def test_a_runtime_that_the_device_has_not_is_refused(tmp_path):
    device = tmp_path / "device.yaml"
    device.write_text(DEVICE.replace("onnxruntime:", "tensorrt:"))
    with pytest.raises(RecipeError, match=r"'onnxruntime' is no runtime of device .*device\.yaml") as error:
        steps("onnx", device=device, runtime="onnxruntime")
    assert error.value.hint == "--set bench.runtime=tensorrt"


def test_a_path_that_is_not_there_is_named():
    with pytest.raises(RecipeError, match=r"no file \./nowhere\.yaml"):
        steps("./nowhere.yaml")


def test_a_family_is_no_target():
    with pytest.raises(RecipeError, match="unknown name 'onxn'"):
        steps("onxn")
