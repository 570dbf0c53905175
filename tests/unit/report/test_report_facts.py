"""gather: tables against independent NumPy forms, verdicts, missing steps, void measurements."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from edgekd import predictions, stats
from edgekd.errors import IntegrityError
from edgekd.report import facts
from edgekd.report.folder import clean
from edgekd.report.schema import Facts


def rows(found: Facts) -> dict[str, object]:
    return {row.step: row for row in found.stages}


def test_chain_in_order_with_every_figure(found):
    names = [row.step for row in found.stages]
    assert names[:4] == ["teacher", "student", "graph", "quantized/u8s8"]
    assert names[4:6] == ["export/onnx", "export/onnx-int8"]
    assert names[6:] == ["bench/onnx@cpu", "bench/onnx-int8@cpu"]
    last = found.stages[-1]
    assert (last.file_bytes, last.device) == (371002, "cpu")
    assert last.latency_p50_ms.low < last.latency_p50_ms.value < last.latency_p50_ms.high
    assert last.latency_p50_ms.n == 12000
    assert found.stages[0].what == "resnet56_a, imported"
    assert found.stages[1].parameters == 272474
    assert found.stages[0].val_seen_in_training and not found.stages[1].val_seen_in_training
    assert found.name == "cifar10_resnet20_short"
    assert [link.step for link in found.lineage][:2] == ["data", "teacher"]


def test_order_of_the_mapping_does_not_matter(make, recipe):
    chain = make().chain()
    shuffled = dict(sorted(chain.items(), reverse=True))
    first = facts.gather(chain, recipe)
    assert {row.step: row for row in facts.gather(shuffled, recipe).stages} == {row.step: row for row in first.stages}


def test_top1_and_drop_are_the_statistics_of_the_predictions(make, recipe):
    chain = make().chain()
    found = rows(facts.gather(chain, recipe))
    graph, int8 = (predictions.load(chain[name].path).right for name in ("graph", "quantized/u8s8"))
    assert found["quantized/u8s8"].top1_percent.value == pytest.approx(100 * int8.mean())
    low, high = stats.wilson(int(int8.sum()), len(int8))
    assert (found["quantized/u8s8"].top1_percent.low, found["quantized/u8s8"].top1_percent.high) == (
        100 * low,
        100 * high,
    )
    drop = found["quantized/u8s8"].drop
    assert drop.against == "graph"
    assert drop.points == pytest.approx(100 * (graph.mean() - int8.mean()))
    assert (drop.lost, drop.gained) == (int(np.sum(graph & ~int8)), int(np.sum(~graph & int8)))


def test_each_bench_is_compared_with_what_it_was_exported_from(make, recipe):
    found = rows(facts.gather(make().chain(), recipe))
    assert found["bench/onnx@cpu"].drop.against == "graph"
    assert found["bench/onnx-int8@cpu"].drop.against == "quantized/u8s8"
    assert found["export/onnx"].verdict == "evaluated as bench/onnx@cpu"


def test_what_a_tool_chain_made_is_compared_with_what_it_was_made_from_and_weighed_with_its_weights(make, recipe):
    maker = make()
    maker.chain()
    for step, source, metrics in [
        ("program", "student", {}),
        ("export/litert-int8", "program", {}),
        ("export/ethos-u55-128", "export/litert-int8", {}),
        ("export/openvino", "graph", {"file_bytes": 60000, "weights_bytes": 1000000}),
        ("bench/openvino@cpu", "export/openvino", {"file_bytes": 60000}),
    ]:
        folder = maker.artifact(step, (source,), metrics)
        if not step.startswith("bench"):
            maker.answers(folder, 0.91)
    found = rows(facts.gather(maker.made, recipe))
    against = {step: row.drop.against for step, row in found.items() if row.drop}
    assert against["program"] == "student" and against["export/litert-int8"] == "program"
    assert against["export/ethos-u55-128"] == "export/litert-int8" and against["export/openvino"] == "graph"
    assert [found[step].file_bytes for step in ("export/openvino", "bench/openvino@cpu")] == [1060000, 1060000]


def test_verdict_words(make, recipe):
    maker = make(n=4000)
    maker.chain()
    maker.answers(maker.made["quantized/u8s8"].path, 0.60)
    found = rows(facts.gather(maker.made, recipe))
    assert found["teacher"].verdict == "first of the chain"
    assert found["graph"].verdict == "no difference shown (n=4,000)"
    assert found["quantized/u8s8"].verdict.startswith("lower than graph by ")
    assert found["bench/onnx-int8@cpu"].verdict.startswith("higher than quantized/u8s8 by ")


def test_other_images_are_not_compared(make, recipe):
    maker = make()
    maker.chain()
    maker.answers(maker.made["quantized/u8s8"].path, 0.9, rows=np.arange(5, 2005))
    row = rows(facts.gather(maker.made, recipe))["quantized/u8s8"]
    assert row.drop is None
    assert row.verdict == "not compared with graph: other images"


def test_order_of_the_rows_does_not_matter(make, recipe):
    maker = make()
    maker.chain()
    before = facts.gather(maker.made, recipe)
    path = maker.made["quantized/u8s8"].path
    old, order = predictions.load(path), np.random.default_rng(1).permutation(maker.n)
    predictions.save(
        path, predictions.Predictions(*(getattr(old, k)[order] for k in ("row", "label", "logits", "role", "answer")))
    )
    assert facts.gather(maker.made, recipe) == before


def test_confusion_matrix_and_recall(make, recipe):
    chain = make().chain()
    shipped = facts.gather(chain, recipe).shipped
    answers = predictions.load(chain["bench/onnx-int8@cpu"].path)
    expected = np.zeros((10, 10), int)
    for label, answer in zip(answers.label, answers.logits.argmax(1), strict=True):
        expected[label, answer] += 1
    assert shipped.step == "bench/onnx-int8@cpu"
    assert np.array_equal(np.array(shipped.matrix), expected)
    for i, row in enumerate(shipped.recall):
        n = int(expected[i].sum())
        low, high = stats.wilson(int(expected[i, i]), n)
        assert (row.name, row.right, row.n) == (shipped.classes[i], expected[i, i], n)
        assert row.low == pytest.approx(100 * low) and row.high == pytest.approx(100 * high)
        assert row.low < row.percent < row.high
    wrong = expected - np.diag(np.diag(expected))
    assert shipped.worst[0].n == wrong.max()
    assert [item.n for item in shipped.worst] == sorted((item.n for item in shipped.worst), reverse=True)


def test_class_without_images_has_no_recall(make, recipe):
    maker = make()
    maker.label = np.zeros_like(maker.label)
    found = facts.gather(maker.chain(), recipe).shipped
    assert found.recall[0].n == maker.n
    assert (found.recall[1].n, found.recall[1].percent) == (0, None)


def test_many_classes_keep_the_worst_confusions_and_no_matrix(make, recipe):
    maker = make(classes=tuple(f"class {i}" for i in range(250)))
    found = facts.gather(maker.chain(), recipe).shipped
    assert found.matrix is None
    assert found.worst and len(found.recall) == 250


def test_missing_stages_say_what_to_type(make):
    maker = make()
    maker.data()
    maker.teacher()
    maker.student()
    found = facts.gather(maker.made)
    missing = {row.step: row.command for row in found.stages if row.state == "not run"}
    assert missing == {
        "graph": "edgekd export",
        "quantized": "edgekd quantize",
        "export": "edgekd export",
        "bench": "edgekd bench",
    }
    assert found.shipped is None and found.latency == ()
    assert facts.gather({}).stages[0].command == "edgekd train"


def test_student_without_teacher_skips_it(make):
    maker = make()
    maker.data()
    maker.student("ce")
    found = rows(facts.gather(maker.made, {"name": "x", "teacher": {"model": "resnet56"}}))
    assert found["teacher"].state == "skipped"
    assert found["student"].what == "resnet20, labels only"
    assert found["student"].verdict == "first of the chain"


def test_void_measurement_gives_its_reason_and_no_number(make, recipe):
    maker = make()
    maker.chain()
    del maker.made["bench/onnx-int8@cpu"]
    target = maker.root / "bench/onnx-int8@cpu"
    for path in sorted(target.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    maker.bench("onnx-int8", "quantized/u8s8", 0.7, verdict="void", reasons=["throttled at 97 C"])
    found = facts.gather(maker.made, recipe)
    row, bench = rows(found)["bench/onnx-int8@cpu"], found.latency[-1]
    assert (row.state, row.verdict) == ("void", "void: throttled at 97 C")
    assert row.top1_percent is None and row.latency_p50_ms is None and row.drop is None
    assert (bench.state, bench.verdict, bench.reasons) == ("void", "void", ("throttled at 97 C",))
    assert bench.throughput_per_s is None and bench.histograms == () and bench.p50_ms is None
    assert found.shipped.step == "bench/onnx@cpu"


def test_histogram_holds_every_sample(make, recipe):
    chain = make().chain()
    for bench in facts.gather(chain, recipe).latency:
        samples = np.load(chain[bench.step].path / "samples.npz")["end_to_end_ns"] / 1e6
        histogram = bench.histograms[0]
        assert (histogram.name, sum(histogram.counts), histogram.n) == ("end_to_end", len(samples), len(samples))
        assert histogram.edges_ms[0] <= samples.min() and histogram.edges_ms[-1] >= samples.max()
        assert [h.name for h in bench.histograms] == ["end_to_end", "preprocess", "inference"]


@pytest.mark.parametrize("samples", [[5], [7, 7, 7], [0, 0], [1, 10**9], [10**6, 2 * 10**6, 3 * 10**6]])
def test_histogram_of_few_or_odd_samples(make, recipe, samples):
    chain = make().chain()
    np.savez(chain["bench/onnx@cpu"].path / "samples.npz", end_to_end_ns=np.array(samples, np.int64))
    histogram = facts.gather(chain, recipe).latency[0].histograms[0]
    assert sum(histogram.counts) == len(samples)


def test_attention_with_its_taps_and_the_reconstruction(found):
    assert np.array(found.attention.matrix).shape == (3, 9)
    assert found.attention.teacher_taps[1] == "block.3"
    assert (
        found.reconstruction == "RTK here is an edgekd reconstruction from the paper's abstract, not the authors' code"
    )


def test_other_methods_are_no_reconstruction(make):
    maker = make()
    maker.data()
    maker.teacher()
    maker.student("kd")
    found = facts.gather(maker.made)
    assert found.reconstruction is None and found.attention is None


def test_curves_keep_loss_terms_and_validation(found):
    (curve,) = found.curves
    assert (curve.step, len(curve.epoch)) == ("student", 60)
    assert list(curve.losses) == ["loss", "ce", "kd", "rtk"]
    assert curve.val_top1_percent[-1] == pytest.approx(91.2 - 40 * np.exp(-4))


def test_json_round_trip_equals_the_facts(make, recipe):
    from edgekd.report.text import as_json

    found = facts.gather(make().chain(), {**recipe, "odd": float("nan")})
    plain = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert plain["schema_version"] == 1
    assert Facts.model_validate(plain) == found


def test_clean_takes_out_what_breaks_a_terminal_or_xml():
    assert clean({"a\x1b[31m": ["\ud800", float("inf"), np.float32(1.5), "é日本"]}) == {
        "a�[31m": ["�", None, 1.5, "é日本"]
    }
    assert clean("abc\u202edcb") == "abc�dcb"


@pytest.mark.parametrize(
    ("step", "name"),
    [
        ("student", "history.json"),
        ("student", "diagnostics.npz"),
        ("bench/onnx@cpu", "samples.npz"),
        ("bench/onnx@cpu", "predictions.npz"),
        ("data", "data.json"),
    ],
)
def test_broken_file_is_named(make, recipe, step, name):
    chain = make().chain()
    (chain[step].path / name).write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(IntegrityError, match=name) as caught:
        facts.gather(chain, recipe)
    assert chain[step].id in str(caught.value)


def test_classes_must_fit_the_logits(make, recipe):
    maker = make()
    chain = maker.chain()
    maker.classes = ("only", "two")
    document = json.loads((chain["data"].path / "data.json").read_text())
    maker.write(chain["data"].path, "data.json", document | {"classes": ["only", "two"]})
    with pytest.raises(IntegrityError, match="10 logits a row"):
        facts.gather(chain, recipe)


def test_data_says_who_looked_at_what(found):
    roles = dict(found.data.roles)
    assert roles["val held out of train"] == "500 images"
    assert roles["calibration"] == "512 un-augmented training images (quantized/u8s8)"
    assert roles["test looked at"] == "6 times, once by each evaluated artifact"
    assert found.data.splits["train"] == 50000
    assert "class weights" not in roles


@pytest.mark.parametrize(("val", "says"), [(0, "9,000 images, whole"), (500, "500 of its 9,000 images")])
def test_a_val_split_of_the_datas_own_is_told(make, recipe, val, says):
    maker = make()
    plain = maker.distilled
    maker.distilled = lambda use: {**plain(use), "roles": {"val": val}}
    folder = maker.chain()["data"].path
    document = json.loads((folder / "data.json").read_text())
    maker.write(folder, "data.json", document | {"splits": document["splits"] | {"val": 9000}})
    roles = dict(facts.gather(maker.made, recipe).data.roles)
    assert roles["val"] == f"the data's own split, {says}" and "val held out of train" not in roles


def test_class_weights_are_told(make, recipe):
    maker = make()
    plain = maker.distilled
    maker.distilled = lambda use: {**plain(use), "fit": {"class_weights": "balanced"}}
    roles = dict(facts.gather(maker.chain(), recipe).data.roles)
    assert roles["class weights"] == "balanced, in the loss of student"


def test_machine_is_recorded_without_the_hosts_name(found):
    assert ("versions.torch", "2.15.0") in found.made_with
    assert "secret-host" not in found.model_dump_json()
    machine = dict(found.latency[0].machine)
    assert machine["machine.cpu"] == "Made-up CPU 3000" and machine["runtime.version"] == "1.31.1"
    assert not any(name.startswith("latency") for name in machine)


def test_composed_method_names_its_rebuilt_part(make):
    maker = make()
    maker.data()
    maker.teacher()
    maker.distilled = lambda use: {"distill": {"use": "sum", "args": {"of": [{"use": "kd"}, {"use": "rtk"}]}}}
    maker.student("sum")
    assert facts.gather(maker.made).reconstruction.startswith("RTK here is an edgekd reconstruction")


def test_the_report_never_imports_a_framework():
    code = (
        "import sys; import edgekd.report.html, edgekd.report.facts, edgekd.report.text; "
        "import edgekd.report.plots; bad = {'torch', 'onnxruntime', 'onnx', 'torchvision'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


POWER = {
    "probe": "ina3221",
    "rails": {"VDD_IN": {}},
    "total": "rail VDD_IN",
    "refused": None,
    "note": "the rest is not in it",
}
FIGURES = {"energy_mj": 4.02, "energy_low_mj": 3.98, "energy_high_mj": 4.06, "n_updates": 198}


def shown(make, **changed):
    """The latency facts and the pages of a chain whose int8 bench has these metrics and this result."""
    from edgekd.report import html, text

    maker = make()
    maker.chain()
    shutil.rmtree(maker.made["bench/onnx-int8@cpu"].path)
    maker.bench("onnx-int8", "quantized/u8s8", 0.78, **changed)
    found = facts.gather(maker.made)
    bench = next(bench for bench in found.latency if bench.step == "bench/onnx-int8@cpu")
    return bench, text.plain(found), html.render(found)


@pytest.mark.parametrize("kind", ["emulated", "simulator", "estimated"])
def test_times_of_what_is_no_real_device_are_shown_nowhere(make, kind):
    bench, plain, page = shown(make, kind=kind, power={**POWER, **FIGURES})
    assert (bench.state, bench.kind) == ("ok", kind)
    assert (bench.p50_ms, bench.p90_ms, bench.throughput_per_s, bench.power, bench.histograms) == (
        None,
        None,
        None,
        None,
        (),
    )
    for shown_text in (plain, page):
        assert f"{kind}: correctness only" in shown_text
    row = next(line for line in plain.splitlines() if line.startswith("bench/onnx-int8@cpu: "))
    assert " ms" not in row


def test_energy_is_shown_with_its_rail_its_rest_and_its_updates(make):
    bench, plain, page = shown(make, power={**POWER, **FIGURES, "mean_mw": 9010.0, "idle_mw": 5000.0})
    assert bench.power.energy_mj.value == 4.02
    for shown_text in (plain, page):
        assert (
            "4.02 mJ an inference [3.98, 4.06] above rest (rail VDD_IN: 9.01 W, 5.00 W at rest; 198 sensor updates)"
            in shown_text
        )


def test_a_refused_figure_says_why(make):
    _, plain, page = shown(make, power={**POWER, "refused": "3 updates of the sensor"})
    for shown_text in (plain, page):
        assert "no energy figure: 3 updates of the sensor" in shown_text


def test_parts_stand_in_the_order_in_which_they_happen(make):
    maker = make()
    maker.chain()
    path = maker.made["bench/onnx@cpu"].path / "samples.npz"
    names = ("postprocess", "device_to_host", "compute", "host_to_device", "inference", "preprocess", "end_to_end")
    np.savez(path, **{f"{name}_ns": np.arange(1, 200) for name in names})
    bench = facts.gather(maker.made).latency[0]
    order = ["end_to_end", "preprocess", "inference", "host_to_device", "compute", "device_to_host", "postprocess"]
    assert [histogram.name for histogram in bench.histograms] == order
