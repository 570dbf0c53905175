"""Rules of every family exist, and those of family onnx are onnxruntime's own verdict."""

import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgekd import profiles
from edgekd.lint import base
from tests.lintgraphs import half, node, quantized


def write(model, folder):
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def unknown_input(model):
    node(model, "relu").input[0] = "nowhere"
    return model


def other_output(model):
    node(model, "flatten").output[0] = model.graph.output[0].name = "answers"
    return model


def without_kernel(model):
    """onnxruntime convolves no float64 on a CPU."""
    node(model, "into").attribute[0].i = TensorProto.DOUBLE
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float64"), tensor.name))
    return model


BAD = {
    "an unknown input": ("onnx-loads", lambda: unknown_input(quantized())),
    "another output": ("onnx-loads", lambda: other_output(quantized())),
    "no kernel": ("onnx-kernel", lambda: without_kernel(half())),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_graph_is_caught_by_exactly_its_rule(name, tmp_path):
    rule, make = BAD[name]
    findings = base.lint(write(make(), tmp_path), "onnx")
    assert [finding.rule.id for finding in findings] == [rule]
    assert findings[0].places[0]


@pytest.mark.parametrize("make", [quantized, half], ids=["int8", "float16"])
def test_a_good_graph_passes(make, tmp_path):
    assert base.lint(write(make(), tmp_path), "onnx") == []


def test_every_shipped_family_has_rules_with_ids_of_its_own():
    families = {target.family for target in profiles.targets().values() if target.exporter == "onnx"}
    assert families == set(base.families())
    ids = [rule.id for family in families for rule in base.rules(family)]
    assert len(ids) == len(set(ids))
    for family in families:
        assert base.rules(family) and all(rule.id.startswith(f"{family}-") for rule in base.rules(family))
