"""The ONNX exporter's files, whatever the class names are."""

import json
import shutil

import pytest

from edgekd import onnxfile, registry
from edgekd.errors import StageFailed
from edgekd.exporters import onnx
from tests.onnxtoys import ONNX, artifact, chain


def test_the_registry_finds_it():
    assert registry.load("exporters", "onnx") is onnx.ONNX
    assert registry.find("exporters", "onnx").arguments == ()


@pytest.mark.parametrize("classes", [["a\nb", "  c ", "d"], ["Ä", "日本", "e\tf"]])
def test_class_i_is_line_i(tmp_path, classes):
    source = artifact("graph", shutil.copytree(chain().graph.path, tmp_path / "source"))
    facts = json.loads((source.path / "model.json").read_text())
    (source.path / "model.json").write_text(json.dumps({**facts, "classes": classes}))
    (tmp_path / "out").mkdir()
    onnx.ONNX().export(source, tmp_path / "out", target=ONNX)
    lines = (tmp_path / "out" / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [" ".join(name.split()) for name in classes]


def test_a_fixed_batch_is_refused(tmp_path):
    source = artifact("graph", shutil.copytree(chain().graph.path, tmp_path / "source"))
    model = onnxfile.load(source.path / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnxfile.save(model, source.path / "model.onnx")
    (tmp_path / "out").mkdir()
    with pytest.raises(StageFailed, match="batch"):
        onnx.ONNX().export(source, tmp_path / "out", target=ONNX)
