"""Rules of family trt: each catches its own bad graph and no other, and the real parser bears most of them out."""

import numpy as np
import onnx
import pytest

from edgekd import trtcheck
from edgekd.errors import CheckFailed, IntegrityError
from edgekd.lint import base, trt
from tests.lintgraphs import BAD, GOOD, changed, put, quantized, without_a_type

# What TensorRT-RTX 1.7 does not refuse itself: it casts doubles, ignores domains, and takes later operator sets and any
# placement. Its other releases, or accuracy and speed, suffer.
TAKEN_BY_THE_PARSER = {"trt-float64", "trt-domain", "trt-opset", "trt-relu-apart"}
needs_rtx = pytest.mark.skipif(not trtcheck.available(), reason=f"needs tensorrt-rtx-cu13: {trtcheck.INSTALL}")


def write(model, folder):
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def found(model, folder):
    return [finding.rule.id for finding in base.lint(write(model, folder), "trt")]


def test_each_rule_has_its_bad_graph():
    ids = [rule.id for rule in trt.RULES]
    assert len(ids) == len(set(ids)) and set(ids) == set(BAD)
    assert all(rule.what and rule.why and rule.fix for rule in trt.RULES)


@pytest.mark.parametrize("rule", BAD)
def test_a_bad_graph_is_caught_by_exactly_its_rule(rule, tmp_path):
    assert found(BAD[rule](), tmp_path) == [rule]


@pytest.mark.parametrize("name", GOOD)
def test_a_good_graph_passes(name, tmp_path):
    assert found(GOOD[name](), tmp_path) == []


def test_a_type_that_is_left_out_is_uint8(tmp_path):
    assert found(changed(without_a_type), tmp_path) == ["trt-uint8"]


def test_all_findings_are_named_at_once_with_their_places(tmp_path):
    model = quantized(np.uint8, bias=np.int32)
    put(model, "z", np.uint8(128))
    findings = base.lint(write(model, tmp_path), "trt")
    assert {f.rule.id: f.places for f in findings} == {
        "trt-int32-bias": ("bias",),
        "trt-zero-point": ("quantize", "dequantize"),
        "trt-uint8": ("quantize", "dequantize"),
    }
    with pytest.raises(CheckFailed) as caught:
        base.require(findings, "export/x", "trt")
    assert caught.value.exit_code == 3 and caught.value.where == "export/x" and caught.value.hint
    assert all(f.rule.id in caught.value.found and f.rule.why in caught.value.found for f in findings)


def test_a_warning_does_not_fail(tmp_path):
    findings = base.lint(write(BAD["trt-relu-apart"](), tmp_path), "trt")
    assert [f.rule.level for f in findings] == ["warning"]
    base.require(findings, "export/x", "trt")
    assert "1 warning" in base.summary("trt", findings, None)


def test_many_places_are_shortened_for_people_and_kept_in_the_record(tmp_path):
    finding = base.Finding(trt.RULES[0], tuple("abcde"))
    assert "a, b, c and 2 more" in finding.text and finding.record()["places"] == list("abcde")


def test_what_is_no_onnx_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(IntegrityError):
        base.lint(tmp_path / "model.onnx", "trt")


def test_a_family_without_rules_says_so(tmp_path):
    path = write(quantized(), tmp_path)
    assert base.rules("mine") == () and base.lint(path, "mine") == [] and base.prove(path, "mine", "x") is None
    assert "has no rules" in base.summary("mine", [], None)


@needs_rtx
@pytest.mark.parametrize("name", GOOD)
def test_the_parser_takes_what_the_linter_passes(name, tmp_path):
    assert trtcheck.build(write(GOOD[name](), tmp_path), "x")["checked"]


@needs_rtx
@pytest.mark.parametrize("rule", BAD)
def test_the_parser_bears_the_rule_out(rule, tmp_path):
    path = write(BAD[rule](), tmp_path)
    if rule in TAKEN_BY_THE_PARSER:
        assert trtcheck.build(path, "x")["checked"]
    else:
        with pytest.raises(CheckFailed, match="TensorRT-RTX"):
            trtcheck.build(path, "x")
