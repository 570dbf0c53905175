"""`edgekd explain`: of two runs that differ in one known thing it names that thing and the first step that it changes."""

import json
import shutil
from pathlib import Path

import pytest
from provenchain import STEPS, call, chain_of

from edgekd import registry
from edgekd.commands import explained
from edgekd.stages import bench
from edgekd.stages.base import StageResult
from edgekd.store import Store


def explain(home, a, b):
    done = call(home, "explain", a, b, "--json", "--workspace", "w")
    assert done.code == 0, done.err
    return json.loads(done.out)


def changes(step):
    return {(c["kind"], c["name"]): (c["before"], c["after"]) for c in step["changes"]}


def again(home, goal, *overrides):
    """The last artifact of a run with overrides."""
    options = [part for text in overrides for part in ("--set", text)]
    return list(chain_of(home, goal, "--recipe", "tiny.yaml", *options).values())[-1].id


@pytest.mark.parametrize(
    "goal, override, step, expected",
    [
        ("distill", "seed=1", "teacher", {"params.seed": (0, 1), "params.roles.seed": (0, 1)}),
        ("distill", "student.fit.lr=0.05", "student", {"params.fit.lr": (0.1, 0.05)}),
        ("distill", "data.val=50", "teacher", {"params.roles.val": (0, 50)}),
        ("quantize", "quantize.calibrate=minmax", "quantized/u8s8", {"params.args.calibrate": ("absent", "minmax")}),
    ],
)
def test_one_changed_value_is_named_in_the_first_step_that_it_changes(proven, home, goal, override, step, expected):
    last = {"distill": "student", "quantize": "quantized/u8s8"}[goal]
    facts = explain(home, proven.steps[last].id, again(home, goal, override))
    assert not facts["same"] and facts["first"]["step"] == step and facts["first"]["reason"] == "key"
    assert changes(facts["first"]) == {("parameter", name): value for name, value in expected.items()}
    behind = STEPS[STEPS.index(step) + 1 : STEPS.index(last) + 1]
    if override == "data.val=50":
        said = call(home, "explain", proven.steps[last].id, facts["b"], "--workspace", "w").out
        assert "the same up to here: data\nfirst difference: teacher" in said
        assert "roles.val: 0 -> 50 (the recipe's data.val)" in said
        assert f"next: edgekd lineage {facts['b']} --verify --workspace w" in said
    assert [difference["step"] for difference in facts["follows"]] == list(behind)


def test_another_version_of_a_stage_is_named(proven, home, monkeypatch):
    own = registry.stage_version
    monkeypatch.setattr(registry, "stage_version", lambda name: own(name) + (name == "quantize"))
    facts = explain(home, proven.steps["export/onnx-int8"].id, again(home, "quantize"))
    version = own("quantize")
    assert facts["first"]["step"] == "quantized/u8s8" and facts["first"]["reason"] == "key"
    assert changes(facts["first"]) == {("stage version", "version"): (version, version + 1)}
    assert [(d["step"], d["reason"]) for d in facts["follows"]] == [("export/onnx-int8", "only in A")]


def test_another_version_of_a_benchs_runtime_is_named(proven, home, monkeypatch):
    """The fingerprint says so; the figures are those of before, for nothing else is to differ."""
    old, print_of = proven.steps[STEPS[-1]], bench.fingerprint

    def copy(params, inputs, out, context):
        for name in old.manifest["files"]:
            shutil.copyfile(old.path / name, out / name)
        return StageResult(dict(old.metrics), ("predictions.npz",))

    monkeypatch.setattr(bench, "fingerprint", lambda *args: {**print_of(*args), "runtime": "onnxruntime 0.0.1"})
    monkeypatch.setattr(bench, "run", copy)
    facts = explain(home, old.id, again(home, "run"))
    assert facts["first"]["step"] == STEPS[-1] and facts["follows"] == []
    found = {("device", "environment.runtime"): (old.manifest["environment"]["runtime"], "onnxruntime 0.0.1")}
    assert changes(facts["first"]) == found


def test_equal_things_are_said_to_be(proven, home):
    same = explain(home, "student", proven.steps["student"].id)
    assert same["same"] and same["first"] is None and same["follows"] == []
    text = call(home, "explain", "tiny", "tiny", "--workspace", "w").out
    assert f"the same: {len(STEPS)} steps" in text


def test_a_file_is_what_it_was_exported_from(proven, home):
    shutil.copyfile(proven.steps["export/onnx-int8"].path / "model.onnx", home / "shipped.onnx")
    assert explain(home, "shipped.onnx", "export/onnx-int8")["same"]
    assert explain(home, "shipped.onnx", "student")["first"]["reason"] == "only in A"


def test_a_folder_of_another_workspace_is_an_artifact(proven, home):
    path = proven.home / "w" / "artifacts" / proven.steps["student"].id
    assert explain(home, path, again(home, "distill", "student.fit.lr=0.05"))["first"]["step"] == "student"


def test_a_longer_chain_and_another_method_say_which_steps_only_one_has(proven, home):
    longer = explain(home, "student", "graph")
    assert [longer["first"]["step"], longer["first"]["reason"]] == ["qat", "only in B"]
    facts = explain(
        home, proven.steps["student"].id, again(home, "distill", "distill.use=ce", "distill.cached_views=null")
    )
    assert [(d["step"], d["reason"]) for d in (facts["first"], *facts["follows"])] == [
        ("teacher", "only in A"),
        ("views", "only in A"),
        ("student", "key"),
    ]


def test_the_same_key_with_other_bytes_is_not_called_a_change_of_the_key(proven):
    old = proven.steps["student"]
    values = {**old.manifest, "digest": "0" * 64, "threads": 7}
    (difference,) = explained.differences([explained.Pair("student", old, type(old)(old.path, values))])
    assert difference.reason == "bytes" and not difference.own and not difference.inputs
    assert [(c.name, c.before, c.after) for c in explained.outside(difference.pair)] == [("threads", 1, 7)]


def test_two_results_of_boards_are_compared_without_their_figures(proven, tmp_path):
    path = proven.steps[STEPS[-1]].path / "result.json"
    result = json.loads(path.read_text())
    result["runtime"]["version"] = "0.0.1"
    result["latency"]["end_to_end"]["n"] = 1
    (tmp_path / "other.json").write_text(json.dumps(result))
    done = call(tmp_path, "explain", path, "other.json", "--json", "--workspace", "w")
    assert [c["name"] for c in json.loads(done.out)["changes"]] == ["runtime.version"]
    done = call(tmp_path, "explain", path, "student", "--workspace", "w")
    assert done.code == 2 and "two of the same kind" in done.err
    done = call(tmp_path, "explain", path, "nowhere.json", "--workspace", "w")
    assert done.code == 2 and "nowhere.json: no such file" in done.err


def test_what_is_not_there_is_refused(home):
    done = call(home, "explain", "student", "nobody", "--workspace", "w")
    assert done.code == 2 and "try: edgekd artifacts ls --workspace w" in done.err
    Path(home / "other.onnx").write_bytes(b"")
    assert call(home, "explain", "student", "other.onnx", "--workspace", "w").code == 2
    assert Store(home / "w").all()
