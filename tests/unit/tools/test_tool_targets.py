"""Targets that a tool chain makes: which steps they take, what the program carries, what is gated. The tools are stood in for."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from edgekd import predictions, profiles, targets
from edgekd.analysis import coverage, resolution
from edgekd.analysis.gate import Watch, routes
from edgekd.analysis.ledger import ledger
from edgekd.artifact import Artifact, sha256_file
from edgekd.commands import chain as chains
from edgekd.console import Console
from edgekd.data import normalize
from edgekd.errors import CheckFailed, RecipeError, StageFailed
from edgekd.exporters import ethos_u, executorch, litert, payload
from edgekd.fit.distributed import Group
from edgekd.params import ExportParams, ProgramParams
from edgekd.pipeline import Outcome
from edgekd.plan import plan
from edgekd.recipe import Gate, from_dict
from edgekd.report import placed
from edgekd.report.folder import Folder
from edgekd.stages import program, toolchain
from edgekd.tools.workers import ethos_u as vela
from edgekd.tools.workers import executorch as xnnpack
from tests.onnxtoys import CONTEXT, ROLES, TEST, VAL, artifact, chain

SHIPPED = Path(__file__).parents[3] / "export"
RECIPE = {
    "name": "toy",
    "data": {"use": "digits"},
    "student": {"model": "resnet8", "checkpoint": "x.safetensors"},
    "export": ["onnx-int8"],
}
SAID = """
CPU operators = 1 (33.3%)
NPU operators = 2 (66.7%)
"""


def recipe(**changes):
    return from_dict({**RECIPE, **changes}, "toy")


# ---- the plan --------------------------------------------------------------------------------------------------------


def test_an_ethos_u_target_is_made_from_the_int8_file_and_that_from_a_program():
    steps = {step.name: step for step in plan(recipe(), until="export", targets=["ethos-u85-256", "ethos-u55-128"])}
    made = [name for name in steps if name.startswith(("program", "export", "quantized"))]
    assert made == ["program", "export/litert-int8", "export/ethos-u85-256", "export/ethos-u55-128"]
    assert steps["program"].inputs == {"data": "data", "student": "student"}
    assert steps["export/litert-int8"].inputs == {"source": "program", "data": "data"}
    assert steps["export/ethos-u55-128"].inputs["source"] == "export/litert-int8"


def test_a_program_is_made_for_those_alone_that_need_it_and_of_the_network_trained_rounded():
    assert "program" not in [step.name for step in plan(recipe(), until="export")]
    trained = plan(recipe(qat={"epochs": 1}), until="export", targets=["litert-int8"])
    assert next(step for step in trained if step.name == "program").inputs["student"] == "qat"


def test_the_parameters_of_other_targets_are_what_they_were():
    step = next(step for step in plan(recipe(), until="export") if step.name == "export/onnx-int8")
    assert set(step.params.model_dump()) == {"target", "family", "exporter", "scheme", "args", "parity"}
    assert step.inputs == {"source": "quantized/u8s8"}


@pytest.mark.parametrize(("exported", "meant"), [(["onnx-int8"], "int8"), (["onnx"], "fp32")])
@pytest.mark.parametrize("family", ["litert", "executorch"])
def test_a_family_stands_for_its_target_of_the_recipes_precision(family, exported, meant):
    assert targets.resolve_targets([family], "--format", recipe(export=exported)) == [f"{family}-{meant}"]


def test_an_onnx_file_cannot_become_a_program():
    own = {"student": {"onnx": "x.onnx"}, "export": ["onnx", "litert-fp32"]}
    with pytest.raises(RecipeError, match="made from a PyTorch network"):
        plan(recipe(**own), until="export", targets=["ethos-u55-128"])
    steps = [step.name for step in plan(recipe(**own), until="export")]
    assert "export/onnx" in steps and "program" not in steps


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("qnn-int8", {"tool": None}, "one of: qnn"),
        ("qnn-int8", {"tool": "rknn"}, "one of: qnn"),
        ("ethos-u55-128", {"tool": "rknn"}, "one of: litert, ethos-u"),
        ("rknn-rk3588", {"kind": None}, "simulator"),
        ("onnx", {"tool": "litert"}, "edgekd makes it itself"),
    ],
)
def test_a_users_own_target_names_its_tool_and_what_its_figures_are_worth(tmp_path, name, change, said):
    facts = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text()) | change | {"name": "own"}
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({key: value for key, value in facts.items() if value is not None}))
    with pytest.raises(RecipeError) as error:
        targets.resolve_targets([str(own)], "--format", recipe())
    assert said in error.value.expected and error.value.exit_code == 2


def test_behind_a_target_that_nothing_here_can_run_no_benchmark_is_proposed(tmp_path):
    """Its source, a `.tflite` that could be measured, was not asked for."""
    steps = plan(recipe(), until="export", targets=["ethos-u55-128"])
    made = [Outcome(step, "made", "") for step in steps]
    asked = chains.ChainOptions("export", None, tmp_path, None, None, None, False, False, None, None, False)
    said = chains._following(asked, made, Group(), ["export/ethos-u55-128"], [])
    assert said == f"edgekd lint export/ethos-u55-128 --workspace {tmp_path}"


# ---- the program -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The program of the toy student, and what the stage said."""
    out = tmp_path_factory.mktemp("program") / "11111111-22222222"
    out.mkdir()
    params = ProgramParams(images=30, golden=4, roles=ROLES, seed=0)
    result = program.run(params, {"data": chain().data, "student": chain().student}, out, CONTEXT)
    return Artifact(out, artifact("program", out).manifest | {"metrics": result.metrics}), result


def test_a_program_answers_its_own_golden_batch_alone(made):
    source, result = made
    facts = json.loads((source.path / "model.json").read_text())
    network = torch.export.load(source.path / "program.pt2").module()
    with np.load(source.path / "golden.npz") as file:
        images = normalize.apply(file["images"], facts["normalize"]["mean"], facts["normalize"]["std"])
        found = [network(torch.from_numpy(image[None])).detach().numpy()[0] for image in images]
        np.testing.assert_allclose(found, file["logits"], atol=1e-4)
    assert result.metrics["n_test"] == TEST and result.metrics["n_val"] == VAL
    assert set(result.payload) <= {path.name for path in source.path.iterdir()}


def test_a_program_says_nothing_of_this_machine_and_is_the_same_again(made, tmp_path):
    source, _ = made
    again = tmp_path / "again"
    again.mkdir()
    params = ProgramParams(images=30, golden=4, roles=ROLES, seed=0)
    program.run(params, {"data": chain().data, "student": chain().student}, again, CONTEXT)
    stored = (source.path / "program.pt2").read_bytes()
    assert stored == (again / "program.pt2").read_bytes() and b"site-packages" not in stored


def test_the_calibration_images_are_training_images_that_are_recorded(made):
    source, _ = made
    with np.load(source.path / "calibration.npz") as file:
        images, rows = file["images"], file["rows"]
    train = np.load(chain().data.path / "images_train.npy")
    assert len(rows) == 30 and np.array_equal(images, train[rows])
    assert json.loads((source.path / "calibration.json").read_text())["rows"] == rows.tolist()


# ---- the stage -------------------------------------------------------------------------------------------------------


def params_of(name, **changes):
    target = profiles.target(name)
    return ExportParams(
        **{k: getattr(target, k) for k in ("family", "exporter", "scheme", "args", "tool", "kind")},
        **{"target": name, "parity": target.bounds, "images": 8, "roles": ROLES, "seed": 0, **changes},
    )


def answering(monkeypatch, source, noise):
    """The LiteRT tool writes a file; its engine answers as the student does, with noise."""
    network = torch.export.load(source.path / "program.pt2").module()
    facts = json.loads((source.path / "model.json").read_text())["normalize"]
    random = np.random.default_rng(0)

    def convert(tool, job, out, **more):
        job["model"].write_bytes(b"file")
        return {"operators": {"CONV_2D": 9}, "program_error_to_range": 0.0}

    def answer(self, path, images, rows, tool, work):
        given = torch.from_numpy(normalize.apply(np.asarray(images)[rows], facts["mean"], facts["std"]))
        logits = np.concatenate([network(image[None]).detach().numpy() for image in given])
        return (logits + noise * random.standard_normal(logits.shape)).astype(np.float32)

    monkeypatch.setattr(payload, "run_worker", convert)
    monkeypatch.setattr(litert.LiteRT, "answer", answer)


def test_a_tool_chains_file_is_evaluated_and_keeps_its_own_golden_answers(made, tmp_path, monkeypatch):
    source, result = made
    answering(monkeypatch, source, noise=0.01)
    found = toolchain.run(
        litert.LiteRT(), params_of("litert-int8"), {"source": source, "data": chain().data}, tmp_path, CONTEXT
    )
    assert abs(found.metrics["top1_percent"] - result.metrics["top1_percent"]) < 3
    assert found.metrics["answered_by"] == "litert, this CPU" and set(found.payload) <= {
        path.name for path in tmp_path.iterdir()
    }
    with np.load(source.path / "golden.npz") as theirs, np.load(tmp_path / "golden.npz") as own:
        assert np.array_equal(theirs["images"], own["images"]) and not np.array_equal(theirs["logits"], own["logits"])
    assert json.loads((tmp_path / "model.json").read_text())["file"] == "model.tflite"
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.parametrize("name", ["litert-int8", "litert-fp32"])
def test_a_file_that_answers_otherwise_is_refused(made, tmp_path, monkeypatch, name):
    answering(monkeypatch, made[0], noise=3.0)
    with pytest.raises(CheckFailed, match=f"export/{name}"):
        toolchain.run(litert.LiteRT(), params_of(name), {"source": made[0], "data": chain().data}, tmp_path, CONTEXT)


def test_a_program_that_the_tools_torch_reads_otherwise_is_refused(made, tmp_path, monkeypatch):
    monkeypatch.setattr(payload, "run_worker", lambda *a, **k: {"refused": "it errs by 0.1"})
    with pytest.raises(StageFailed, match=r"it errs by 0\.1"):
        toolchain.run(
            litert.LiteRT(), params_of("litert-int8"), {"source": made[0], "data": chain().data}, tmp_path, CONTEXT
        )


# ---- Vela ------------------------------------------------------------------------------------------------------------

ROWS = [
    {"operator": "Conv2D", "becomes": "Conv2D", "place": "NPU", "cycles": 10, "macs": 4, "name": "conv1"},
    {"operator": "Mean", "becomes": "Passthrough", "place": "CPU", "cycles": 0, "macs": 0, "name": "pool"},
]
TOLD = {
    "vela": "5.2.0",
    "cpu_operators": 1,
    "npu_operators": 1,
    "inference_ms": 0.4,
    "clock_mhz": 500.0,
    "cycles": 200,
    "npu_cycles": 190,
    "macs": 4,
    "sram_bytes": 1024,
    "dram_bytes": 0,
    "flash_bytes": 2048,
    "layers": ROWS,
    "reasons": [{"operator": "MEAN", "name": "pool", "reason": "too large"}],
}


@pytest.fixture
def compiled(made, tmp_path, monkeypatch):
    """An Ethos-U target of a file with answers: (its folder, what the stage said)."""
    source = tmp_path / "litert"
    source.mkdir()
    for name in ("golden.npz", "predictions.npz", "model.json"):
        (source / name).write_bytes((made[0].path / name).read_bytes())
    facts = json.loads((source / "model.json").read_text()) | {"scheme": "s8-litert"}
    (source / "model.json").write_text(json.dumps(facts))
    monkeypatch.setattr(
        ethos_u, "run_worker", lambda t, job, out, **k: job["model"].write_bytes(b"x") and json.loads(json.dumps(TOLD))
    )
    folder = tmp_path / "ethos"
    folder.mkdir()
    target = profiles.target("ethos-u55-128")
    exporter = ethos_u.EthosU(**target.args)
    inputs = {"source": artifact("export/litert-int8", source), "data": chain().data}
    return folder, toolchain.run(exporter, params_of("ethos-u55-128"), inputs, folder, CONTEXT)


def test_what_falls_back_to_the_cpu_is_counted_and_named(compiled):
    folder, result = compiled
    assert result.metrics["npu_coverage"] == 0.5 and result.metrics["fell_back"] == "Mean (pool)"
    placed = json.loads((folder / "placement.json").read_text())
    assert placed["kind"] == "estimated by Vela" and [row["place"] for row in placed["layers"]] == ["NPU", "CPU"]
    assert placed["settings"]["system_config"] == "Ethos_U55_High_End_Embedded"
    assert "latency" not in " ".join(result.metrics)  # an estimate has another name
    assert (folder / "predictions.npz").is_file() and "placement.json" in result.payload


def test_the_gate_of_coverage_fails_a_fallback_and_passes_without_one(compiled, tmp_path):
    folder, result = compiled
    there = Artifact(folder, artifact("export/ethos-u55-128", folder).manifest | {"metrics": result.metrics})
    refused = coverage.refused(Gate(npu_coverage=1.0), there)
    assert refused is not None and refused.exit_code == 3 and "Mean (pool)" in refused.found
    assert coverage.refused(Gate(npu_coverage=0.5), there) is None
    assert coverage.refused(Gate(max_drop_pp=1.0), there) is None and coverage.refused(None, there) is None
    watch = Watch(Gate(npu_coverage=1.0), "toy", tmp_path, lambda line: None)
    watch.leaves_out(there.step, ["export/litert-int8"])
    watch.look(there.step, {there.step: there})
    with pytest.raises(CheckFailed, match=r"50\.0 % of operators on the NPU"):
        watch.require()


def test_a_fallback_that_velas_count_leaves_out_is_counted_all_the_same(made, tmp_path, monkeypatch):
    facts = json.loads((made[0].path / "model.json").read_text()) | {"scheme": "s8-litert"}
    source, out = tmp_path / "litert", tmp_path / "ethos"
    for folder in (source, out):
        folder.mkdir()
    (source / "model.json").write_text(json.dumps(facts))
    (source / "golden.npz").write_bytes((made[0].path / "golden.npz").read_bytes())
    told = json.dumps({**TOLD, "cpu_operators": 0, "npu_operators": 3})
    monkeypatch.setattr(ethos_u, "run_worker", lambda *a, **k: json.loads(told))
    exporter = ethos_u.EthosU(**profiles.target("ethos-u55-128").args)
    work = SimpleNamespace(where="export/x", console=CONTEXT.console, threads=1)
    exporter.export(artifact("export/litert-int8", source), out, target=params_of("ethos-u55-128"), work=work)
    assert exporter.found["npu_coverage"] == 0.75 and exporter.found["n_cpu_operators"] == 1


@pytest.mark.parametrize(("found", "hint"), [(0.99996, "=0.999"), (2 / 3, "=0.666"), (0.57, "=0.57"), (0.0, None)])
def test_the_gate_of_coverage_says_what_would_pass(found, hint):
    there = Artifact(chain().graph.path, {**chain().graph.manifest, "metrics": {"npu_coverage": found}})
    refused = coverage.refused(Gate(npu_coverage=1.0), there)
    assert refused is not None and "100.0 %" not in refused.found
    typed = refused.hint.partition("--set gate.npu_coverage=")[2]
    assert not typed if hint is None else 0 < float(typed) <= found and refused.hint.endswith(hint)


def test_the_report_says_of_whom_a_note_is_and_never_none_of_what_is_not_named():
    about = {"kind": "k", "coverage_percent": 50.0, "npu_operators": 1}
    rows = [
        placed.Placed(step=step, cpu_operators=n, note=note, **about)
        for step, n, note in (("a", 1, "x"), ("b", 0, "y"))
    ]
    assert placed.notes([*rows, rows[0].model_copy(update={"step": "c"})]) == [
        "accuracy of a, c: x",
        "accuracy of b: y",
    ]
    assert [placed.cells(row)[2] for row in rows] == ["not named", "none"]


def test_the_report_shows_the_placement_and_that_nothing_of_it_was_measured(compiled):
    folder, result = compiled
    name = "export/ethos-u55-128"
    there = Artifact(folder, artifact(name, folder).manifest | {"metrics": result.metrics})
    row = placed.placed(name, Folder(there))
    assert row is not None and [(one.operator, one.place) for one in row.operators] == [
        ("Conv2D", "NPU"),
        ("Mean", "CPU"),
    ]
    cells = dict(zip(placed.COLUMNS, placed.cells(row), strict=True))
    assert cells["taken"] == "1 of 2 by NPU (50.0 %)" and cells["falls back"] == "Mean (pool)"
    assert cells["as"].startswith("estimated by Vela") and "not measured" in placed.TITLE
    assert placed.placed("graph", Folder(chain().graph)) is None


# ---- XNNPACK ---------------------------------------------------------------------------------------------------------


def handed(backend, *operators):
    """A lowered part of a graph."""
    nodes = [SimpleNamespace(op="placeholder", name="x", target="x")]
    for i, name in enumerate(operators):
        target = SimpleNamespace(name=lambda name=name: name)
        nodes.append(SimpleNamespace(op="call_function", name=f"node_{i}", target=target))
    graph = SimpleNamespace(nodes=nodes)
    return SimpleNamespace(backend_id=backend, original_module=SimpleNamespace(graph=graph))


def plan_of(delegates, kernels=()):
    """The plan in a .pte file: a call of each delegate, then each kernel."""
    calls = [SimpleNamespace(instr_args=SimpleNamespace(delegate_index=i)) for i in range(len(delegates))]
    calls += [SimpleNamespace(instr_args=SimpleNamespace(op_index=i)) for i in range(len(kernels))]
    return SimpleNamespace(
        delegates=[SimpleNamespace(id=name) for name in delegates],
        operators=[SimpleNamespace(name=name, overload=overload) for name, overload in kernels],
        chains=[SimpleNamespace(instructions=calls)],
    )


def test_what_xnnpack_was_handed_and_what_the_file_runs_elsewhere_is_told_apart():
    part = handed("XnnpackBackend", "aten::convolution", "quantized_decomposed::quantize_per_tensor", "aten::relu")
    kernels = [("aten::cumsum", "out"), ("aten::sort", "")]
    said = xnnpack.placement([part], plan_of(["XnnpackBackend"], kernels))
    assert [(row["operator"], row["place"]) for row in said["placement"]] == [
        ("aten::convolution", "XNNPACK"), ("aten::relu", "XNNPACK"),
        ("aten::cumsum.out", "ExecuTorch"), ("aten::sort", "ExecuTorch"),
    ]  # fmt: skip
    assert said["delegates"] == 1 and said["left"] == {"aten::cumsum.out": 1, "aten::sort": 1}


@pytest.mark.parametrize("delegates", [[], ["OtherBackend"], ["XnnpackBackend", "XnnpackBackend"]])
def test_a_file_that_hands_over_other_parts_than_the_graph_is_refused(delegates):
    with pytest.raises(RuntimeError, match="other parts"):
        xnnpack.placement([handed("XnnpackBackend", "aten::relu")], plan_of(delegates))


LEFT = [([], 1.0, ""), ([("aten::sort", "")], 0.5, "aten::sort (kernel 0)")]


@pytest.mark.parametrize(("kernels", "share", "fallen"), LEFT)
def test_what_xnnpack_leaves_is_counted_named_and_shown(made, tmp_path, monkeypatch, kernels, share, fallen):
    part = handed("XnnpackBackend", "aten::convolution")
    told = {"program_error_to_range": 0.0, **xnnpack.placement([part], plan_of(["XnnpackBackend"], kernels))}
    monkeypatch.setattr(payload, "run_worker", lambda *a, **k: json.loads(json.dumps(told)))
    exporter = executorch.ExecuTorch()
    monkeypatch.setattr(exporter, "answer", lambda path, images, *rest: np.zeros((len(images), 10), np.float32))
    work = SimpleNamespace(where="export/x", console=CONTEXT.console, threads=1, norm=([0.0], [1.0]))
    out = tmp_path / "executorch"
    out.mkdir()
    exporter.export(made[0], out, target=params_of("executorch-int8"), work=work)
    assert exporter.found["xnnpack_coverage"] == share and exporter.found["fell_back"] == fallen
    assert {path.name for path in out.iterdir()} >= set(exporter.files) - {executorch.MODEL}
    there = Artifact(out, artifact("export/executorch-int8", out).manifest | {"metrics": exporter.found})
    row = placed.placed("export/executorch-int8", Folder(there))
    assert row is not None and len(row.operators) == 1 + len(kernels)
    cells = dict(zip(placed.COLUMNS, placed.cells(row), strict=True))
    assert cells["taken"].startswith(f"1 of {1 + len(kernels)} by XNNPACK")
    assert cells["falls back"] == (fallen or "none")
    assert coverage.refused(Gate(npu_coverage=1.0), there) is None  # a library for the CPU is no NPU


def test_velas_counts_are_read_from_what_it_prints():
    assert {place: int(n) for place, n, _ in vela.COUNTS.findall(SAID)} == {"CPU": 1, "NPU": 2}
    assert vela._short("a.b.Wrapper;;a.b.Wrapper;;c.d.Wrapper;5") == "Wrapper;5"


# ---- ledger and gate -------------------------------------------------------------------------------------------------

MADE_FROM = {
    "data": [],
    "student": ["data"],
    "program": ["data", "student"],
    "graph": ["data", "student"],
    "export/onnx": ["graph"],
    "export/litert-int8": ["program", "data"],
    "export/ethos-u55-128": ["export/litert-int8", "data"],
}


def test_exports_that_answer_are_held_to_the_gate_and_others_are_not():
    found = routes(MADE_FROM, ["export/litert-int8", "export/ethos-u55-128"])
    assert set(found) == {"graph", "export/litert-int8", "export/ethos-u55-128"}
    assert found["export/ethos-u55-128"] == ("export/litert-int8", "export/ethos-u55-128")
    assert set(routes(MADE_FROM)) == {"graph"}


def test_a_budget_that_the_test_images_cannot_resolve_is_refused_for_a_tool_chains_file_too():
    gate = Gate(max_drop_pp=0.1)
    resolution.require(gate, MADE_FROM, 10**6, ["export/litert-int8"])
    with pytest.raises(RecipeError, match="cannot be resolved"):
        resolution.require(gate, MADE_FROM, 10**4, ["export/litert-int8"])
    resolution.require(gate, MADE_FROM, 10**4)


def test_the_ledger_has_a_row_for_what_a_tool_chain_made(made, tmp_path):
    steps = {}
    made_from = {"student": {}, "program": {"student": "student"}, "export/litert-int8": {"source": "program"}}
    for name, inputs in made_from.items():
        folder = tmp_path / name.replace("/", "-")
        folder.mkdir()
        stored = predictions.save(folder, predictions.load(made[0].path))
        metrics = {"answered_by": "litert, this CPU"} if name.startswith("export") else {}
        manifest = artifact(name, folder).manifest | {
            "metrics": metrics,
            "files": {stored.name: {"sha256": sha256_file(stored)}},
        }
        ids = {role: {"id": f"{step}/11111111-22222222"} for role, step in inputs.items()}
        steps[name] = Artifact(folder, manifest | {"inputs": ids})
    rows = ledger(steps, Gate(max_drop_pp=5))
    assert [row["step"] for row in rows] == ["student", "export/litert-int8"]
    assert rows[1]["gate"]["passed"] and rows[1]["previous"]["to"] == "student"
    assert rows[1]["verdict"].endswith("[litert, this CPU]")


def test_a_gate_of_coverage_alone_demands_nothing_of_the_accuracy():
    gate = Gate(npu_coverage=1.0)
    assert gate.budgeted is None and Gate(max_drop_pp=1).budgeted is not None
    assert Watch(gate, "toy", CONTEXT.resume, Console(quiet=True).log).gate is None
