"""Stage `graph`: what the file is, that it repeats torch, that a wrong one is caught."""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import edgekd
from edgekd import onnxfile, predictions
from edgekd.console import Console
from edgekd.data import normalize
from edgekd.errors import CheckFailed, RecipeError, StageFailed
from edgekd.fit import evaluate as fit_evaluate
from edgekd.params import GraphParams
from edgekd.stages import converted, evaluate, graph, simplification, tracing
from tests.onnxtoys import CLASSES, CONTEXT, MUTATIONS, ROLES, SIZE, TEST, VAL, chain
from tests.tolerances import ONNX_ERROR_TO_RANGE


@pytest.fixture(scope="module")
def model():
    return onnx.load(chain().graph.path / "model.onnx")


@pytest.fixture
def traced(monkeypatch, model):
    """Spares the seconds of tracing: the stage meets this graph, which a test may change."""
    known = onnx.ModelProto.FromString(model.SerializeToString())
    monkeypatch.setattr(tracing, "trace", lambda *args: known)
    return known


def _hashes(folder, names):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def test_the_folder_holds_one_self_contained_file(model):
    folder = chain().graph.path
    names = {path.name for path in folder.iterdir()}
    assert names == {*graph.PAYLOAD, "parity.json"}
    assert not [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]


def test_opset_names_and_free_batch(model):
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    onnx.checker.check_model(model, full_check=True)
    shapes = [
        [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [["batch", 3, SIZE, SIZE], ["batch", len(CLASSES)]]
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("batch", [1, 3, 17])
def test_any_batch_answers_as_torch_does(batch):
    data = evaluate.open_data(chain().data, ROLES)
    network, _, norm = evaluate.read_network(chain().student, data)
    images = normalize.apply(data.arrays.images("test")[:batch], *norm)
    with torch.no_grad():
        wanted = network.eval()(torch.from_numpy(images)).numpy()
    session = onnxruntime.InferenceSession(chain().graph.path / "model.onnx", providers=["CPUExecutionProvider"])
    found = session.run(["logits"], {"input": images})[0]
    assert found.shape == (batch, len(CLASSES))
    assert np.abs(found - wanted).max() <= ONNX_ERROR_TO_RANGE * max(1.0, np.ptp(wanted))


def test_same_student_gives_the_same_bytes_and_nothing_on_stdout(tmp_path, capfd):
    inputs = {"data": chain().data, "student": chain().student}
    result = graph.run(GraphParams(roles=ROLES), inputs, tmp_path, replace(CONTEXT, console=Console()))
    assert _hashes(tmp_path, result.payload) == _hashes(chain().graph.path, result.payload)
    out, err = capfd.readouterr()
    assert out == ""
    assert "parity" in err


def test_torch_answers_with_the_threads_of_the_run(tmp_path, monkeypatch, traced):
    seen = []
    whole = fit_evaluate.evaluate

    def spy(*args):
        seen.append(torch.get_num_threads())
        return whole(*args)

    monkeypatch.setattr(fit_evaluate, "evaluate", spy)
    before = torch.get_num_threads()
    inputs = {"data": chain().data, "student": chain().student}
    graph.run(GraphParams(roles=ROLES), inputs, tmp_path, replace(CONTEXT, threads=before + 1))
    assert seen == [before + 1] * 2  # golden and test images
    assert torch.get_num_threads() == before


def test_nothing_of_the_building_machine_is_inside(model):
    data = (chain().graph.path / "model.onnx").read_bytes()
    for text in (str(Path.cwd()), sys.prefix, "site-packages", ".py", "stack_trace", "pkg.torch", "onnxsim", "+cu"):
        assert text.encode() not in data
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


def test_metadata_is_inside(model):
    inside = onnxfile.metadata(model)
    assert json.loads(inside["classes"]) == CLASSES
    assert (inside["version"], inside["source"], inside["scheme"]) == (edgekd.__version__, chain().student.id, "none")
    assert json.loads(inside["mean"]) == [0.5, 0.45, 0.4]
    assert json.loads(inside["std"]) == [0.25, 0.2, 0.3]
    assert json.loads(inside["input_shape"]) == [3, SIZE, SIZE]
    assert len(model.metadata_props) == len(inside)


def test_model_json_is_the_students_with_the_opset():
    student = json.loads((chain().student.path / "model.json").read_text())
    assert json.loads((chain().graph.path / "model.json").read_text()) == {**student, "opset": 18, "scheme": "none"}


def test_predictions_and_metrics_are_those_of_the_file():
    metrics = chain().results["graph"].metrics
    found = predictions.load(chain().graph.path)
    assert (metrics["n_test"], metrics["n_val"]) == (TEST, VAL) == (len(found.of("test").row), len(found.of("val").row))
    assert metrics["file_bytes"] == (chain().graph.path / "model.onnx").stat().st_size
    of_torch = evaluate.open_data(chain().data, ROLES)
    network, _, norm = evaluate.read_network(chain().student, of_torch)
    wanted = evaluate.answers(network, of_torch, norm, "cpu", ("val", "test"))
    assert np.array_equal(wanted.row, found.row)
    assert np.array_equal(wanted.role, found.role)
    assert np.array_equal(wanted.label, found.label)
    assert np.array_equal(wanted.right, found.right)


def test_parity_is_written_with_the_simplifiers_effect():
    written = json.loads((chain().graph.path / "parity.json").read_text())
    assert written["against"] == "torch"
    assert written["test"]["n"] == TEST
    assert written["golden"]["passed"]
    effect = written["simplify"]
    assert effect["simplifier"] == "onnxsim"
    assert effect["nodes_after"] <= effect["nodes_before"]
    assert effect["bytes_after"] <= effect["bytes_before"]
    assert effect["error_to_range"] == 0.0


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_wrong_graph_fails_with_its_figures(name, tmp_path, traced):
    MUTATIONS[name](traced)
    with pytest.raises(CheckFailed, match=r"max error .* of the logit range") as caught:
        chain().run_graph(tmp_path)
    assert caught.value.exit_code == 3
    assert json.loads((tmp_path / "parity.json").read_text())["test"]["passed"] is False


def test_a_simplifier_that_changes_answers_is_refused(tmp_path, monkeypatch, traced):
    def wrong(model):
        MUTATIONS["wrong weights"](model)
        return model, True

    monkeypatch.setattr(simplification.onnxsim, "simplify", wrong)
    with pytest.raises(CheckFailed, match="onnxsim changes the logits"):
        chain().run_graph(tmp_path)


def test_a_simplifier_that_fixes_the_batch_is_refused(tmp_path, monkeypatch, traced):
    def wrong(model):
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 16
        del model.graph.value_info[:]
        return model, True

    monkeypatch.setattr(simplification.onnxsim, "simplify", wrong)
    with pytest.raises(StageFailed, match="refuses a batch"):
        chain().run_graph(tmp_path)


def test_without_simplifier_the_graph_answers_the_same(tmp_path, traced):
    chain().run_graph(tmp_path, simplify="none")
    effect = json.loads((tmp_path / "parity.json").read_text())["simplify"]
    assert effect["nodes_before"] == effect["nodes_after"]
    assert effect["bytes_before"] == effect["bytes_after"]
    assert np.array_equal(predictions.load(tmp_path).logits, predictions.load(chain().graph.path).logits)


def test_an_exporter_that_leaves_another_opset_is_caught(tmp_path, monkeypatch, model):
    def wrong(network, example, path, **options):
        other = onnx.ModelProto.FromString(model.SerializeToString())
        other.opset_import[0].version = 20
        onnx.save(other, path)

    monkeypatch.setattr(torch.onnx, "export", wrong)
    with pytest.raises(StageFailed, match=r"operator set \[20\]"):
        chain().run_graph(tmp_path)


def test_a_newer_opset_can_be_asked_for(tmp_path):
    chain().run_graph(tmp_path, opset=20)
    assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == 20
    assert json.loads((tmp_path / "model.json").read_text())["opset"] == 20


@pytest.mark.parametrize("params", [{"opset": 17}, {"golden": 0}])
def test_check_refuses_before_work(params):
    with pytest.raises(RecipeError):
        graph.check(GraphParams(roles=ROLES, **params), CONTEXT)
    graph.check(GraphParams(roles=ROLES), CONTEXT)


def test_spread_reaches_over_all_rows():
    rows = np.arange(0, 5000, 2)
    found = converted.spread(rows, 100)
    assert len(found) == len(set(found)) == 100
    assert found[0] == 0
    assert found[-1] > 4900
    assert np.array_equal(converted.spread(rows, 2500), rows)


def test_proof_needs_numbers():
    file = (chain().graph.path / "model.onnx").read_bytes()
    images = np.full((2, 3, SIZE, SIZE), np.nan, dtype=np.float32)
    with pytest.raises(CheckFailed):
        simplification.prove_equal(file, file, images)
