"""Stage `quantize`: the int8 file, what it was calibrated on, and that a bad one is caught. No torch in it."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest

from edgekd import onnxfile, onnxrun, predictions
from edgekd.console import Console
from edgekd.data import roles
from edgekd.errors import CheckFailed, RecipeError
from edgekd.params import Roles
from edgekd.profiles import FP16_MIN_SQNR_DB
from edgekd.quantizers import qdq
from edgekd.quantizers.ptq import PTQ
from edgekd.stages import judge as judging
from edgekd.stages import quantize
from tests.onnxtoys import CLASSES, CONTEXT, MUTATIONS, QUANTIZE, ROLES, SIZE, TEST, TRAIN, VAL, artifact, chain
from tests.tolerances import TOY_INT8_SQNR_DB


@pytest.fixture(scope="module")
def model():
    return onnx.load(chain().quantized.path / "model.onnx")


def test_the_file_is_smaller_valid_and_keeps_its_promises(model):
    folder = chain().quantized.path
    assert {path.name for path in folder.iterdir()} == {*quantize.PAYLOAD, "parity.json"}
    small, large = (a.path / "model.onnx" for a in (chain().quantized, chain().graph))
    assert small.stat().st_size < 0.4 * large.stat().st_size
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert b"/tmp" not in small.read_bytes()
    for batch in (1, 3, 17):
        found = onnxrun.infer(onnxrun.session(small), np.zeros((batch, 3, SIZE, SIZE), dtype=np.float32))
        assert found.shape == (batch, len(CLASSES))


def test_scheme_u8s8_is_what_it_says(model):
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    types = onnx.TensorProto
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert weights[node.input[2]].data_type == types.UINT8
        if (
            node.op_type == "DequantizeLinear"
            and node.input[0] in weights
            and weights[node.input[0]].data_type == types.INT8
        ):
            values = weights[node.input[0]]
            axis = next((a.i for a in node.attribute if a.name == "axis"), None)
            assert axis is not None
            assert weights[node.input[1]].dims == [values.dims[axis]]
    assert {"Conv", "Gemm"} <= {node.op_type for node in model.graph.node}
    floats = [t for t in weights.values() if t.data_type == types.FLOAT and len(t.dims) == 4]
    assert not floats


def test_metadata_comes_from_the_graph(model):
    before = onnxfile.metadata(onnx.load(chain().graph.path / "model.onnx"))
    inside = onnxfile.metadata(model)
    assert inside["scheme"] == "u8s8"
    assert inside["graph"] == chain().graph.id
    assert {key: value for key, value in inside.items() if key in before} == {**before, "scheme": "u8s8"}
    assert len(model.metadata_props) == len(inside)


def test_calibration_is_recorded_and_of_train_alone():
    record = json.loads((chain().quantized.path / "calibration.json").read_text())
    arrays = roles.split(chain().data, ROLES)
    assert len(set(record["rows"])) == record["images"] == QUANTIZE.images
    assert set(record["rows"]) <= set(arrays.rows["train"].tolist())
    assert not set(record["rows"]) & set(arrays.rows["val"].tolist())
    assert (record["role"], record["augmented"], record["seed"]) == ("train", False, 0)


def test_evaluation_parity_and_golden():
    folder, metrics = chain().quantized.path, chain().results["quantized"].metrics
    assert (metrics["n_test"], metrics["n_val"], metrics["n_parity"]) == (TEST, VAL, TEST)
    assert metrics["sqnr_db"] > TOY_INT8_SQNR_DB
    assert json.loads((folder / "parity.json").read_text())["test"]["passed"]
    assert json.loads((folder / "model.json").read_text())["scheme"] == "u8s8"
    assert len(predictions.load(folder).row) == TEST + VAL
    with np.load(folder / "golden.npz") as golden, np.load(chain().graph.path / "golden.npz") as source:
        assert np.array_equal(golden["images"], source["images"])
        assert not np.array_equal(golden["logits"], source["logits"])


@pytest.mark.parametrize("broken", ["no relu", "wrong weights", "colours swapped"])
def test_a_bad_int8_graph_fails_with_its_figures(broken, tmp_path, monkeypatch):
    right = PTQ.quantize

    def wrong(self, graph, out, **options):
        model = onnx.load(graph)
        MUTATIONS[broken](model)
        onnx.save(model, tmp_path / "mutated.onnx")
        return right(self, tmp_path / "mutated.onnx", out, **options)

    monkeypatch.setattr(PTQ, "quantize", wrong)
    with pytest.raises(CheckFailed, match=r"agreement|SQNR") as caught:
        chain().run_quantize(tmp_path)
    assert caught.value.exit_code == 3
    assert json.loads((tmp_path / "parity.json").read_text())["test"]["passed"] is False


def test_more_images_than_train_has_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"quantize\.images"):
        chain().run_quantize(tmp_path, images=10_000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "params",
    [
        {"scheme": "u8s9"},
        {"images": 0},
        {"roles": Roles(train=99)},
        {"use": "ptk"},
        {"args": {"calibrate": "distribution"}},
    ],
)
def test_check_refuses_before_work(params):
    with pytest.raises(RecipeError):
        quantize.check(QUANTIZE.model_copy(update=params), CONTEXT)
    quantize.check(QUANTIZE, CONTEXT)


def test_stdout_stays_clean(tmp_path, capfd):
    loud = replace(CONTEXT, console=Console())
    quantize.run(QUANTIZE, {"data": chain().data, "graph": chain().graph}, tmp_path, loud)
    out, err = capfd.readouterr()
    assert out == ""
    assert "parity" in err


def test_what_was_chosen_is_said(tmp_path, capfd):
    loud, auto = replace(CONTEXT, console=Console()), QUANTIZE.model_copy(update={"args": {"calibrate": "auto"}})
    result = quantize.run(auto, {"data": chain().data, "graph": chain().graph}, tmp_path, loud)
    assert f"quantize: chose calibrate {result.metrics['calibrate']}\n" in capfd.readouterr().err


def calibrated(folder):
    return json.loads((folder / "calibration.json").read_text())


def test_a_choice_is_made_on_validation_and_recorded_with_its_figures(tmp_path):
    result = chain().run_quantize(tmp_path, args={"calibrate": "auto"})
    record = calibrated(tmp_path)
    assert record["judge"] == {"role": "val", "images": VAL}
    decided = record["decided"]
    assert set(decided["candidates"]) == {"minmax", "entropy", "percentile", "mse"}
    best = max(decided["candidates"].values(), key=lambda one: (one["agreement_percent"], one["sqnr_db"]))
    assert decided["candidates"][decided["calibrate"]] == best and best["images"] == VAL
    assert result.metrics["calibrate"] == decided["calibrate"]
    assert "decided" not in calibrated(chain().quantized.path) and "judge" not in calibrated(chain().quantized.path)


def test_without_validation_training_images_that_nothing_was_calibrated_on_judge(tmp_path):
    chain().run_quantize(tmp_path, args={"calibrate": "auto"}, roles=Roles())
    record = calibrated(tmp_path)
    rows = record["judge"]["rows"]
    assert record["judge"]["role"] == "train" and len(rows) == TRAIN - QUANTIZE.images
    assert not set(rows) & set(record["rows"])


def test_the_judges_images_are_few_seeded_and_never_of_test():
    arrays = roles.split(chain().data, Roles())
    used = np.arange(0, TRAIN, 2)
    first, again, other = (
        judging.judge(arrays, used, ((0.5,) * 3, (0.2,) * 3), seed=seed, threads=1, most=50) for seed in (0, 0, 1)
    )
    assert first is not None and again is not None and other is not None
    assert np.array_equal(first.rows, again.rows) and not np.array_equal(first.rows, other.rows)
    assert len(first.rows) == 50 and not set(first.rows.tolist()) & set(used.tolist())
    assert np.array_equal(first.labels, np.load(chain().data.path / "labels_train.npy")[first.rows])
    assert first.images.shape == (TRAIN, SIZE, SIZE, 3)
    assert judging.judge(arrays, np.arange(TRAIN), ((0.5,) * 3, (0.2,) * 3), seed=0, threads=1) is None


@pytest.mark.parametrize("args", [{"calibrate": "auto"}, {"use": "mixed"}])
def test_a_choice_that_nothing_can_decide_is_refused_before_work(args):
    use = args.get("use", "ptq")
    params = QUANTIZE.model_copy(update={"use": use, "args": {k: v for k, v in args.items() if k != "use"}})
    everything = params.model_copy(update={"images": TRAIN, "roles": Roles()})
    context = replace(CONTEXT, train_images=TRAIN, val_images=0)
    with pytest.raises(RecipeError, match="nothing is held out"):
        quantize.check(everything, context)
    quantize.check(everything, CONTEXT)  # nobody knows yet how many images there are
    if use == "mixed":
        with pytest.raises(RecipeError, match="max_drop_pp"):
            quantize.check(params, context)


def trained(folder, ranges, answers, scheme="u8s8"):
    """A `qat` artifact as far as this stage reads it."""
    folder.mkdir()
    stored = {name: {"scale": own.scale, "zero_point": own.zero_point} for name, own in ranges.items()}
    (folder / "ranges.json").write_text(json.dumps({"scheme": scheme, "ranges": stored}))
    predictions.save(folder, answers)
    return artifact("qat", folder)


@pytest.fixture
def of_training(tmp_path, model):
    """Ranges as they are in the chain's int8 file, and what that file answers."""
    return trained(tmp_path / "qat", qdq.rounded(model), predictions.load(chain().quantized.path))


def test_ranges_of_training_are_used_and_the_file_is_held_to_the_trained_network(of_training, tmp_path, model):
    out = tmp_path / "out"
    out.mkdir()
    inputs = {"data": chain().data, "graph": chain().graph, "qat": of_training}
    quantize.run(QUANTIZE.model_copy(update={"args": {"calibrate": "minmax"}}), inputs, out, CONTEXT)
    assert qdq.rounded(onnx.load(out / "model.onnx")) == qdq.rounded(model)
    report = json.loads((out / "parity.json").read_text())["fake_quant"]
    assert report["passed"] and report["agreement_percent"] == 100 and report["n"] == TEST
    assert calibrated(out)["ranges"] == "trained"


def test_what_the_file_is_held_to_is_called_by_its_name(of_training, tmp_path, capfd):
    out = tmp_path / "out"
    out.mkdir()
    inputs = {"data": chain().data, "graph": chain().graph, "qat": of_training}
    quantize.run(QUANTIZE, inputs, out, replace(CONTEXT, console=Console()))
    said = capfd.readouterr().err
    assert "test images against the float graph: int8," in said
    assert "test images against the network that was trained rounded: fake_quant," in said


def test_a_file_that_decides_otherwise_than_the_trained_network_fails(tmp_path, model):
    right = predictions.load(chain().quantized.path)
    flipped = right.answer.copy()
    flipped[np.flatnonzero(right.role == "test")[0]] += 1
    qat = trained(tmp_path / "qat", qdq.rounded(model), replace(right, answer=flipped % len(CLASSES)))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(CheckFailed, match=r"fake_quant.*agreement 99\.33 %"):
        quantize.run(QUANTIZE, {"data": chain().data, "graph": chain().graph, "qat": qat}, out, CONTEXT)


@pytest.mark.parametrize(
    ("changes", "source", "facts", "named"),
    [
        ({}, "student", {}, True),
        ({"scheme": "s8-trt"}, "student", {}, True),
        ({"scheme": "qnn"}, "student", {}, False),
        ({"use": "mixed", "args": {"max_drop_pp": 1.0}}, "student", {}, False),
        ({"args": {"gates": "float"}}, "student", {}, False),
        ({}, "onnx", {}, False),
        ({}, "student", {"graft": {}}, False),
    ],
)
def test_training_is_named_as_a_remedy_where_the_recipe_can_have_it(changes, source, facts, named, tmp_path):
    graph = artifact("graph", tmp_path)
    graph.manifest["inputs"][source] = {"id": "student/1"}
    params = QUANTIZE.model_copy(update=changes)
    way = f"--set qat.epochs=2 --set qat.scheme={params.scheme}"
    assert quantize._training(params, {"graph": graph}, facts) == ([way] if named else [])
    assert quantize._training(params, {"graph": graph, "qat": graph}, facts) == []


def test_ranges_of_another_scheme_are_left_and_said_so(of_training, tmp_path, capfd):
    loud = replace(CONTEXT, console=Console())
    inputs = {"data": chain().data, "graph": chain().graph, "qat": of_training}
    params = QUANTIZE.model_copy(update={"scheme": "s8-trt"})
    out = tmp_path / "out"
    out.mkdir()
    quantize.run(params, inputs, out, loud)
    assert "trained with ranges of u8s8: for s8-trt it is calibrated" in capfd.readouterr().err
    assert "fake_quant" not in json.loads((out / "parity.json").read_text())


def test_half_precision_is_held_to_its_own_bounds(tmp_path):
    result = chain().run_quantize(tmp_path, scheme="fp16", use="fp16")
    report = json.loads((tmp_path / "parity.json").read_text())["test"]
    assert report["kind"] == "fp16" and report["passed"] and result.metrics["sqnr_db"] > FP16_MIN_SQNR_DB
    assert onnxfile.metadata(onnx.load(tmp_path / "model.onnx"))["scheme"] == "fp16"


SCRIPT = """
import sys
from pathlib import Path
from edgekd.stages import quantize, export
from edgekd.analysis import parity
from tests.onnxtoys import CONTEXT, INT8, QUANTIZE, artifact
data, graph, out = map(Path, sys.argv[1:])
exported = out / "exported"
exported.mkdir()
quantize.check(QUANTIZE, CONTEXT)
quantize.run(QUANTIZE, {"data": artifact("data", data), "graph": artifact("graph", graph)}, out, CONTEXT)
export.check(INT8, CONTEXT)
export.run(INT8, {"source": artifact("quantized", out)}, exported, CONTEXT)
print(sorted({"torch", "torchvision", "onnxsim"} & set(sys.modules)))
"""


def test_another_process_makes_the_same_bytes_without_torch(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(chain().data.path), str(chain().graph.path), str(tmp_path)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={"PYTHONHASHSEED": "12345", "PYTHONPATH": ":".join(filter(None, sys.path)) or "."},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
    for name in quantize.PAYLOAD:
        first, second = ((folder / name).read_bytes() for folder in (tmp_path, chain().quantized.path))
        assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest(), name
