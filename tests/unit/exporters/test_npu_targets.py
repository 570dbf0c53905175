"""OpenVINO, QNN and RKNN targets: what they ask of their tools, what they keep, and what they refuse. The tools are stood in for;
where they are installed, real files are made."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgekd import onnxfile, onnxrun, profiles, registry
from edgekd.data import roles
from edgekd.errors import CheckFailed, RecipeError
from edgekd.exporters import base, openvino, qnn, rknn
from edgekd.exporters.base import Work
from edgekd.exporters.pooled import pooled
from edgekd.params import ExportParams
from edgekd.stages import export, toolchain
from edgekd.tools import beside
from tests.onnxtoys import CONTEXT, ROLES, TEST, VAL, artifact, chain
from tests.tolerances import LINEAR_FP32

WORKERS = Path(openvino.__file__).parents[1] / "tools" / "workers"
TARGETS = [t for t in profiles.targets().values() if t.exporter in ("openvino", "qnn", "rknn")]
HEAD = "D RKNN: [20:56:13.914] "
RK3588 = (
    "0    InputOperator      INT8     CPU    \\                                 (1,3,32,32)     0/0/0            0            InputOperator:input\n"
    "1    ConvRelu           INT8     NPU    (1,3,32,32),(16,3,3,3),(16)       (1,16,32,32)    931/9216/9216    5            Conv:node_Conv_138\n"
    "2    Softmax            FLOAT16  CPU    (1,10)                            (1,10)          0/0/0            0            Softmax:node_soft#2\n"
    "3    OutputOperator     INT8     CPU    (1,10)                            \\               0/0/0            0            OutputOperator:logits\n"
)
RK3576 = (
    "0    InputOperator      INT8     CPU    \\                      (1,3,32,32)     0/0/0                                 0       InputOperator:input\n"
    "1    Conv               INT8     NPU    (1,3,32,32),(16,3,3,3) (1,16,32,32)    2718/9216/9216           0%           3       Conv:node_Conv_138\n"
)


@pytest.fixture
def work(tmp_path):
    arrays = roles.split(chain().data, ROLES)
    (tmp_path / "resume").mkdir()
    (tmp_path / "scratch").mkdir()
    rows = arrays.rows["train"][:8]
    facts = json.loads((chain().graph.path / "model.json").read_text())["normalize"]
    norm = facts["mean"], facts["std"]
    scratch = tmp_path / "scratch"
    return Work(
        CONTEXT.console, 1, "export/x", scratch, scratch / "runner.pyz", arrays, rows, norm, tmp_path / "resume"
    )


def params(target, **more):
    own = {"tool": target.tool, "images": 8, "roles": ROLES, "seed": 0}
    return ExportParams(
        target=target.name, family=target.family, exporter=target.exporter, scheme=target.scheme, args=target.args,
        parity=target.bounds, **{**own, **more},
    )  # fmt: skip


def exporter(target):
    return registry.construct("exporters", target.exporter, target.args)


def source_of(target, folder):
    """The toy chain's graph, or its quantized file under the scheme that the target wants."""
    if target.made_from == "graph":
        return chain().graph
    copy = folder / "source"
    copy.mkdir()
    for path in chain().quantized.path.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    facts = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({**facts, "scheme": target.scheme}))
    return artifact(target.made_from, copy)


def worker(name):
    spec = importlib.util.spec_from_file_location(f"worker_{name}", WORKERS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rknn_worker(monkeypatch):
    """The worker's source, with the toolkit's name to import and nothing in it."""
    for name in ("rknn", "rknn.api"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["rknn.api"].RKNN = object
    return worker("rknn")


def test_every_target_says_its_tool_kind_and_that_no_hardware_was_seen():
    assert len(TARGETS) >= 6
    for target in TARGETS:
        assert target.tool in exporter(target).needs and target.kind
        assert "written, not run on hardware" in target.description


def test_the_table_of_the_compiler_says_where_each_operator_runs(rknn_worker):
    said = "".join(HEAD + line + "\n" for line in (RK3576 + RK3588).splitlines())
    found = rknn_worker.placement(said)
    assert [(one["operator"], one["name"], one["place"], one["cycles"]) for one in found] == [
        ("ConvRelu", "node_Conv_138", "NPU", 9216),
        ("Softmax", "node_soft#2", "CPU", 0),
    ]
    assert len(rknn_worker.placement("".join(HEAD + line + "\n" for line in RK3576.splitlines()))) == 1


@pytest.mark.parametrize(
    "lost", ["", RK3588.replace("2    Softmax            FLOAT16  CPU", "2    Softmax            FLOAT16  DSP")]
)
def test_a_table_that_cannot_be_read_whole_is_an_error(rknn_worker, lost):
    """A line that is not understood might be what falls back."""
    with pytest.raises(RuntimeError, match="cannot be read"):
        rknn_worker.placement("".join(HEAD + line + "\n" for line in lost.splitlines()))


def test_a_return_code_of_the_toolkit_is_an_error(rknn_worker):
    rknn_worker._require(0, "build")
    with pytest.raises(RuntimeError, match="build gave return code -1"):
        rknn_worker._require(-1, "build")


def fake_rknn(job):
    for part in job["answers"]:
        rows = np.load(part["rows"])
        np.save(part["out"], np.arange(len(rows) * 3, dtype=np.float32).reshape(-1, 3))
    Path(job["out"]).write_bytes(b"rknn")
    placement = [
        {"id": 1, "operator": "Conv", "name": "c", "place": "NPU", "cycles": 7},
        {"id": 2, "operator": "Softmax", "name": "s", "place": "CPU", "cycles": 1},
    ]
    return {"toolkit": "2.5.0", "placement": placement, "internal_kib": 1.0, "weight_kib": 2.0}


def test_rknn_asks_once_for_every_answer_and_names_what_falls_back(monkeypatch, tmp_path, work):
    jobs = []
    monkeypatch.setattr(rknn, "run_worker", lambda tool, job, *a, **k: jobs.append(job) or fake_rknn(job))
    target = profiles.target("rknn-rk3566")
    made, out = exporter(target), tmp_path / "out"
    out.mkdir()
    made.export(chain().graph, out, target=params(target), work=work)
    assert len(jobs) == 1 and jobs[0]["platform"] == "rk3566"
    assert np.load(jobs[0]["calibration"]).shape == (8, 3, 12, 12)
    assert made.found["npu_coverage"] == 0.5 and made.found["fell_back"] == "Softmax (s)"
    assert made.found["estimated_cycles"] == 8 and "board" in made.found["accuracy_note"]
    test = work.arrays.rows["test"]
    assert made.answer(out / "model.rknn", work.arrays.images("test").images, test, "rknn", work).shape == (TEST, 3)
    assert len(work.arrays.rows["val"]) == VAL
    with np.load(out / "golden.npz") as golden:
        assert golden["logits"].shape == (len(golden["images"]), 3)  # its own, not the graph's
    assert json.loads((out / "model.json").read_text())["file"] == "model.rknn"
    assert set(made.files) <= {path.name for path in out.iterdir()} and "model.rknn" not in made.files


def test_the_mean_over_the_map_becomes_the_pooling_that_npus_know():
    model = onnxfile.load(chain().graph.path / "model.onnx")
    images = np.random.default_rng(0).normal(size=(4, 3, 12, 12)).astype(np.float32)
    wanted = onnxrun.infer(onnxrun.session(onnxfile.to_bytes(model)), images)
    assert "ReduceMean" in {node.op_type for node in model.graph.node}
    made = pooled(model)
    assert "ReduceMean" not in {node.op_type for node in made.graph.node}
    onnxfile.check(made, "test")
    found = onnxrun.infer(onnxrun.session(onnxfile.to_bytes(made)), images)
    assert np.abs(found - wanted).max() <= LINEAR_FP32 * np.ptp(wanted)


def test_a_quantized_source_is_refused_where_the_tool_quantizes(tmp_path, work):
    target = profiles.target("rknn-rk3588")
    with pytest.raises(RecipeError, match="u8s8"):
        exporter(target).export(chain().quantized, tmp_path, target=params(target), work=work)


@pytest.fixture
def qnn_calls(monkeypatch):
    """The two workers of the QNN target: `elsewhere` may be filled by a test."""
    calls = {"compile": 0, "answer": [], "elsewhere": []}

    def compiled(tool, job, *args, **more):
        calls["compile"] += 1
        if not calls["elsewhere"]:
            Path(job["out"]).write_bytes(b"context")
        return {"version": "2.7.0", "operators": 5, "elsewhere": calls["elsewhere"]}

    def answered(tool, job, *args, **more):
        rows = np.load(job["rows"])
        calls["answer"].append(len(rows))
        np.save(job["logits"], np.stack([rows, -rows, rows * 0], axis=1).astype(np.float32))
        return {"version": "2.7.0", "provider": "QNNExecutionProvider", "settings": {}}

    monkeypatch.setattr(qnn, "run_worker", compiled)
    monkeypatch.setattr(base, "run_worker", answered)
    return calls


def test_qnn_fixes_the_batch_and_says_for_which_chip(qnn_calls, tmp_path, work):
    target = profiles.target("qnn-int8")
    made, out = exporter(target), tmp_path / "out"
    out.mkdir()
    path = made.export(source_of(target, tmp_path), out, target=params(target), work=work)
    model = onnxfile.load(out / "model.onnx")
    assert [v.type.tensor_type.shape.dim[0].dim_value for v in (*model.graph.input, *model.graph.output)] == [1, 1]
    facts = json.loads((out / "model.json").read_text())
    assert facts["file"] == path.name == "model.context.onnx" and facts["chip"] == {"soc_model": "57", "htp_arch": "75"}
    assert made.found["npu_coverage"] == 1.0 and set(made.files) <= {p.name for p in out.iterdir()}


def test_an_operator_that_stays_on_the_cpu_is_named(qnn_calls, tmp_path, work):
    qnn_calls["elsewhere"] = ["Gemm node_linear"]
    target = profiles.target("qnn-int8")
    with pytest.raises(CheckFailed, match="Gemm node_linear"):
        exporter(target).export(source_of(target, tmp_path), tmp_path, target=params(target), work=work)


def test_a_killed_emulation_goes_on_behind_its_last_part(qnn_calls, tmp_path, work, monkeypatch):
    monkeypatch.setattr(qnn, "PART", 40)
    made = exporter(profiles.target("qnn-int8"))
    made.found = {}
    path = tmp_path / "model.context.onnx"
    path.write_bytes(b"context")
    images, rows = work.arrays.images("test").images, work.arrays.rows["test"]
    whole = made.answer(path, images, rows, "qnn", work)
    assert whole[:, 0].tolist() == rows.tolist() and qnn_calls["answer"] == [40, 40, 40, 30]
    kept = sorted((tmp_path / "resume").rglob("*.npy"))
    kept[-1].unlink()
    assert np.array_equal(made.answer(path, images, rows, "qnn", work), whole)
    assert len(qnn_calls["answer"]) == 5  # only the part that was missing
    path.write_bytes(b"another context")
    made.answer(path, images, rows, "qnn", work)
    assert len(qnn_calls["answer"]) == 9  # the answers of another file are not its own


def test_fewer_test_images_are_spread_over_all():
    places = toolchain._chosen(100, 10)
    assert places.tolist() == list(range(0, 100, 10))
    assert len(toolchain._chosen(100, None)) == 100


@pytest.mark.parametrize("name", ["openvino", "openvino-int8"])
def test_openvino_keeps_the_answers(name, tmp_path):
    if beside.EXTRAS["openvino"].versions()["openvino"] is None:
        pytest.skip("openvino is not installed: pip install 'edgekd[openvino]'")
    target = profiles.target(name)
    results = []
    for place in ("a", "b"):
        out = tmp_path / place
        out.mkdir()
        source = chain().graph if target.scheme == "none" else chain().quantized
        results.append(
            export.run(params(target, tool="openvino"), {"source": source, "data": chain().data}, out, CONTEXT)
        )
    assert [(tmp_path / "a" / n).read_bytes() for n in results[0].payload] == [
        (tmp_path / "b" / n).read_bytes() for n in results[1].payload
    ]
    assert results[0].metrics["n_test"] == TEST and results[0].metrics["weights_bytes"] > 0
