"""Stage `export`: the files of a target, and that they still answer the golden batch."""

import json
import shutil

import numpy as np
import onnx
import pytest

from edgekd import onnxfile, profiles
from edgekd.errors import CheckFailed, IntegrityError, MissingTool, RecipeError
from edgekd.stages import export
from tests.onnxtoys import CLASSES, CONTEXT, INT8, MUTATIONS, ONNX, artifact, chain

BOTH = [(ONNX, "graph"), (INT8, "quantized")]


@pytest.fixture
def source(tmp_path):
    """A copy of the graph artifact that a test may damage."""
    return artifact("graph", shutil.copytree(chain().graph.path, tmp_path / "source"))


@pytest.mark.parametrize(("params", "made_from"), BOTH)
def test_the_files_of_a_target(params, made_from):
    made, origin = chain().exports[params.target].path, getattr(chain(), made_from).path
    result = chain().results[params.target]
    assert {path.name for path in made.iterdir()} == {*result.payload, "parity.json", "lint.json"}
    assert set(result.payload) == {"model.onnx", "model.json", "labels.txt", "golden.npz"}
    assert (made / "labels.txt").read_text().splitlines() == CLASSES
    assert (made / "golden.npz").read_bytes() == (origin / "golden.npz").read_bytes()
    facts = json.loads((made / "model.json").read_text())
    assert (facts["target"], facts["family"], facts["scheme"]) == (params.target, "onnx", params.scheme)
    assert result.metrics["file_bytes"] == (made / "model.onnx").stat().st_size


@pytest.mark.parametrize(("params", "made_from"), BOTH)
def test_only_the_targets_name_is_added(params, made_from):
    before = onnx.load(getattr(chain(), made_from).path / "model.onnx")
    after = onnx.load(chain().exports[params.target].path / "model.onnx")
    assert after.graph == before.graph
    assert onnxfile.metadata(after) == {**onnxfile.metadata(before), "target": params.target}


def test_the_same_source_gives_the_same_bytes(tmp_path):
    export.run(INT8, {"source": chain().quantized}, tmp_path, CONTEXT)
    for name in chain().results["onnx-int8"].payload:
        assert (tmp_path / name).read_bytes() == (chain().exports["onnx-int8"].path / name).read_bytes()


@pytest.mark.parametrize(("params", "wrong"), [(ONNX, "quantized"), (INT8, "graph")])
def test_a_source_of_another_scheme_is_refused(params, wrong, tmp_path):
    with pytest.raises(RecipeError, match="scheme"):
        export.run(params, {"source": getattr(chain(), wrong)}, tmp_path, CONTEXT)


def test_a_cut_source_is_an_integrity_error(source, tmp_path):
    path = source.path / "model.onnx"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(IntegrityError):
        export.run(ONNX, {"source": source}, _folder(tmp_path), CONTEXT)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_file_that_misses_the_golden_batch_fails(name, source, tmp_path):
    model = onnx.load(source.path / "model.onnx")
    MUTATIONS[name](model)
    onnx.save(model, source.path / "model.onnx")
    with pytest.raises(CheckFailed) as caught:
        export.run(ONNX, {"source": source}, _folder(tmp_path), CONTEXT)
    assert caught.value.exit_code == 3


def test_other_golden_logits_fail(source, tmp_path):
    with np.load(source.path / "golden.npz") as golden:
        images, logits = golden["images"], golden["logits"]
    np.savez(source.path / "golden.npz", images=images, logits=logits + np.float32(0.1))
    with pytest.raises(CheckFailed, match="max error"):
        export.run(ONNX, {"source": source}, _folder(tmp_path), CONTEXT)


def test_the_targets_own_bounds_are_asked(tmp_path):
    strict = INT8.model_copy(update={"parity": {"min_agreement_percent": 98.0, "min_sqnr_db": 201.0}})
    with pytest.raises(CheckFailed, match=r"SQNR >= 201 dB"):
        export.run(strict, {"source": chain().quantized}, _folder(tmp_path), CONTEXT)


def test_check_refuses_unknown_exporters_and_arguments():
    export.check(ONNX, CONTEXT)
    with pytest.raises(RecipeError):
        export.check(ONNX.model_copy(update={"exporter": "onnxx"}), CONTEXT)


def test_every_shipped_target_has_its_exporter():
    targets = profiles.targets()
    assert {"onnx", "onnx-int8"} <= set(targets)
    for target in targets.values():
        params = ONNX.model_copy(update={"target": target.name, "exporter": target.exporter, "args": target.args})
        params = params.model_copy(update={"scheme": target.scheme})
        try:
            export.check(params, CONTEXT)
        except MissingTool as error:
            assert "tools install" in str(error) or "pip install" in str(error)  # says what to type


def _folder(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder
