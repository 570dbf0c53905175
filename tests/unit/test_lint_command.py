"""`edgekd lint`: a file or an artifact, findings as a table or JSON, exit 3 where a rule is broken."""

import json

import numpy as np
import onnx
import pytest
from typer import Exit

from edgekd import trtcheck
from edgekd.commands.lint import lint
from edgekd.errors import CheckFailed, RecipeError, UsageError
from tests.lintgraphs import BAD, quantized


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setattr(trtcheck, "available", lambda: False)

    def written(model):
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return str(path)

    return written


def test_a_good_file_says_what_was_checked_and_what_not(write, tmp_path, capsys):
    lint(write(quantized()), "trt", tmp_path, json=False)
    said = capsys.readouterr().out
    assert "no finding" in said and trtcheck.INSTALL in said and said.rstrip().split("\n")[-1].startswith("next: ")


def test_a_target_stands_for_its_family(write, tmp_path, capsys):
    lint(write(quantized(np.uint8)), "onnx-int8", tmp_path, json=True)
    assert json.loads(capsys.readouterr().out)["family"] == "onnx"


def test_findings_are_a_table_and_an_error(write, tmp_path, capsys):
    with pytest.raises(CheckFailed, match="trt-uint8"):
        lint(write(quantized(np.uint8)), "tensorrt-int8", tmp_path, json=False)
    assert "trt-uint8" in capsys.readouterr().out


def test_findings_and_error_are_one_document(write, tmp_path, capsys):
    with pytest.raises(Exit) as caught:
        lint(write(quantized(np.uint8, bias=np.int32)), "trt", tmp_path, json=True)
    document = json.loads(capsys.readouterr().out)
    assert caught.value.exit_code == document["error"]["exit_code"] == 3
    assert [f["rule"] for f in document["findings"]] == ["trt-int32-bias", "trt-uint8"]
    assert document["findings"][0]["places"] == ["bias"] and document["tool"] is None


def test_a_warning_is_shown_and_passes(write, tmp_path, capsys):
    lint(write(BAD["trt-relu-apart"]()), "trt", tmp_path, json=False)
    assert "warning" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("format_", "kind", "words"),
    [(None, UsageError, "is missing"), ("trtt", RecipeError, "did you mean 'trt'")],
)
def test_the_family_must_be_known(write, tmp_path, format_, kind, words):
    with pytest.raises(kind, match=words):
        lint(write(quantized()), format_, tmp_path, json=False)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        lint(str(tmp_path / "none.onnx"), "trt", tmp_path, json=False)
