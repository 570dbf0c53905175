"""Which quantizer makes the file of a scheme, and what of it is in the step's key."""

import pytest

from edgekd import recipe as recipes
from edgekd import registry
from edgekd.console import Console
from edgekd.errors import RecipeError
from edgekd.keys import Settings, keyed
from edgekd.plan import plan

RECIPE = {
    "name": "choice",
    "data": {"use": "digits"},
    "student": {"model": "resnet8"},
    "distill": {"use": "ce"},
    "quantize": {"calibrate": "minmax"},
}
TARGETS = {"u8s8": "onnx-int8", "s8-trt": "tensorrt-int8", "fp16": "tensorrt-fp16", "qnn": "qnn-int8"}


def steps(*schemes, **quantize):
    recipe = recipes.from_dict(
        {**RECIPE, "quantize": quantize or RECIPE["quantize"], "export": [TARGETS[name] for name in schemes]}, "choice"
    )
    return {step.params.scheme: step for step in plan(recipe, until="quantized") if step.kind == "quantized"}


def test_every_scheme_of_a_target_has_its_quantizer():
    assert {scheme for p in registry.plugins("quantizers").values() for scheme in p.attributes["schemes"]} == set(
        TARGETS
    )
    found = steps(*TARGETS)
    assert {scheme: step.params.use for scheme, step in found.items()} == {
        "u8s8": "ptq",
        "s8-trt": "ptq",
        "fp16": "fp16",
        "qnn": "ptq",
    }
    assert found["fp16"].params.args == {} and found["s8-trt"].params.args == {"calibrate": "minmax"}
    assert found["fp16"].plugin == ("quantizers", "fp16")


def test_the_recipes_own_is_taken_for_what_it_makes():
    found = steps(*TARGETS, use="mixed")
    assert {scheme: step.params.use for scheme, step in found.items()} == {
        "u8s8": "mixed", "s8-trt": "mixed", "fp16": "fp16", "qnn": "ptq",
    }  # fmt: skip
    assert steps("u8s8", use="fp16")["u8s8"].params.use == "ptq"  # never one that is made of others


def test_a_scheme_that_several_others_make_is_not_guessed(monkeypatch):
    real = registry.plugins
    two = {**real("quantizers"), "other": real("quantizers")["ptq"]}
    monkeypatch.setattr(registry, "plugins", lambda group: two if group == "quantizers" else real(group))
    with pytest.raises(RecipeError, match=r"several others do\n.*ptq, other"):
        steps("u8s8", use="fp16")


def test_the_member_of_mixed_is_in_its_key():
    settings = Settings("w", (), None, Console(quiet=True), 1)
    made = keyed(steps("u8s8", use="mixed")["u8s8"], _inputs(), settings)
    assert made.material["plugin"]["members"] == [
        {"name": "ptq", "version": registry.find("quantizers", "ptq").version}
    ]
    plain = keyed(steps("u8s8")["u8s8"], _inputs(), settings)
    assert "members" not in plain.material["plugin"]


def test_where_biases_stay_in_float_the_key_says_how_the_file_is_evaluated():
    settings = Settings("w", (), None, Console(quiet=True), 1)
    plugin = {name: keyed(step, _inputs(), settings).material["plugin"] for name, step in steps(*TARGETS).items()}
    assert [name for name, own in plugin.items() if "evaluated" in own] == ["s8-trt"]


def _inputs():
    from pathlib import Path

    from tests.onnxtoys import artifact

    return {name: artifact(name, Path(name)) for name in ("data", "graph")}
