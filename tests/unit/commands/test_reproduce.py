"""`edgekd reproduce`: the same bytes again, or what the stated tolerance says of other ones."""

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from provenchain import STEPS, call

from edgekd import manifest, predictions, registry
from edgekd.analysis import reproduced
from edgekd.analysis.reproduced import Tolerance, judge, overall
from edgekd.artifact import Artifact
from edgekd.commands import recorded, reproduce
from edgekd.predictions import Predictions
from edgekd.store import Store

BENCH = STEPS[-1]
WIDE = 50.0  # ratio of two medians that no load of a test machine reaches: these tests are not about latency


def run(home, *argv):
    done = call(home, "reproduce", *argv, "--json", "--workspace", "w")
    return done.code, json.loads(done.out), done.err


def answers(facts):
    return {step["step"]: step["answer"] for step in facts["steps"]}


def test_a_chain_made_again_from_its_manifests_is_the_same_to_the_byte(proven, home):
    (home / "tiny.yaml").unlink()
    before = {a.id for a in Store(home / "w").all()}
    code, facts, err = run(home, "export/onnx-int8")
    assert code == 0 and facts["answer"] == "same"
    assert answers(facts) == dict.fromkeys(STEPS[:-1], "same")
    assert [step["again"] for step in facts["steps"]] == [proven.steps[step].id for step in STEPS[:-1]]
    assert err.index("same: equal digests") < err.index("making"), "the tolerance is said before the run"
    assert {a.id for a in Store(home / "w").all()} == before, "the workspace is left as it was"


def test_a_changed_seed_is_different(proven, home, monkeypatch):
    """What a reproduction is there to find: the step is not the one that was recorded."""
    own = recorded.recorded

    def other(artifact):
        step = own(artifact)
        changed = artifact.step == "student"
        return replace(step, params=step.params.model_copy(update={"seed": 1})) if changed else step

    monkeypatch.setattr(reproduce, "recorded", other)
    monkeypatch.setattr(reproduce.manifest, "changes", lambda *materials: [])  # it is not to be seen in the key
    code, facts, _ = run(home, "student")
    assert code == 3 and facts["answer"] == "different" and facts["error"]["reason"] == "check_failed"
    assert answers(facts) == {"data": "same", "teacher": "same", "views": "same", "student": "different"}
    assert "equal ones were expected" in facts["steps"][-1]["why"]
    monkeypatch.undo()
    there = shlex.split(facts["error"]["hint"])[3]
    explained = call(home, "explain", "student", there, "--json", "--workspace", "w")
    assert json.loads(explained.out)["first"]["changes"][0]["name"] == "params.seed"


def test_the_bench_alone_is_measured_again(proven, home):
    code, facts, err = run(home, BENCH, "--bench-only", "--tolerance", WIDE)
    assert code == 0 and facts["answer"] == "within noise"
    assert answers(facts) == {BENCH: "within noise"} and "equal bytes; p50" in facts["steps"][0]["why"]
    assert "making  bench" in err and "making  export" not in err
    assert sum("taken as sealed" in line for line in facts["stated"]) == len(STEPS) - 1


@pytest.mark.parametrize("argv", [["student", "--bench-only"], ["student", "--tolerance", "1"]])
def test_what_cannot_be_asked_is_refused_before_work(home, argv):
    code, _, err = run(home, *argv)
    assert code == 2 and "making" not in err and not (home / "w" / "reproduce").exists()


def test_a_damaged_chain_is_not_made_again(proven, home):
    path = home / "w" / "artifacts" / proven.steps["teacher"].id / "history.json"
    path.write_bytes(path.read_bytes()[:-1])
    code, facts, err = run(home, "student")
    assert code == 6 and "making" not in err and facts["error"]["where"] == proven.steps["teacher"].id


def test_it_goes_on_where_it_was_cut_short_and_starts_anew_after_its_end(home, monkeypatch):
    own, made = reproduce._judged, []

    def cut(old, *args):
        if old.step == "teacher":
            raise KeyboardInterrupt
        return own(old, *args)

    monkeypatch.setattr(reproduce, "_judged", cut)
    with pytest.raises(KeyboardInterrupt):
        reproduce.reproduce(reproduce.ReproduceOptions("teacher", False, 1.25, home / "w", None, True))
    monkeypatch.setattr(reproduce, "_judged", own)
    for _ in range(2):
        code, facts, err = run(home, "teacher")
        assert code == 0 and facts["answer"] == "same"
        made.append(err.count("making"))
    assert made == [0, 2]


def test_data_that_is_gone_is_said_and_the_sealed_one_taken(proven, home, monkeypatch):
    from edgekd.data.digits import Digits
    from edgekd.errors import MissingTool

    def gone(self, roots):
        raise MissingTool("data.use", "scikit-learn is not installed")

    monkeypatch.setattr(Digits, "locate", gone)
    code, facts, _ = run(home, "teacher")
    assert code == 0 and answers(facts) == {"teacher": "same"}
    assert [line for line in facts["stated"] if line.startswith("not made again")] == [
        "not made again: data: source files of digits: scikit-learn is not installed; taken as sealed"
    ]


def test_other_versions_are_said_before_the_run_and_lower_what_is_expected(proven, home, monkeypatch):
    own = manifest.versions()
    monkeypatch.setattr(manifest, "versions", lambda: {**own, "numpy": "0.0.1"})
    code, facts, _ = run(home, "data")
    assert code == 0 and f"not expected: numpy {own['numpy']} -> 0.0.1" in facts["stated"][0]


def test_a_stage_of_another_version_is_said(home, monkeypatch):
    own = registry.stage_version
    monkeypatch.setattr(registry, "stage_version", lambda name: own(name) + (name == "data"))
    code, facts, _ = run(home, "data")
    assert code == 0 and facts["answer"] == "same"
    assert f"stage data version {own('data')} -> {own('data') + 1}" in facts["stated"][0], "said before the run"
    assert f"not made alike: version: {own('data')} -> {own('data') + 1}" in facts["steps"][0]["why"]


def test_a_boards_bench_is_made_again_on_that_board(proven):
    """No key says which board it was; the step does."""
    old = proven.steps[STEPS[-1]]
    values = {**old.manifest, "step": "bench/onnx-int8@desk", "params": {**old.manifest["params"], "transport": "ssh"}}
    assert recorded.recorded(type(old)(old.path, values)).params.board == "desk"
    assert recorded.recorded(old).params.board is None


def test_every_stage_can_be_made_again():
    root = Path(recorded.__file__).parents[1] / "stages"
    stages = {path.stem for path in root.glob("*.py") if "\nVERSION = " in path.read_text(encoding="utf-8")}
    assert stages and stages == set(recorded.PARAMS)


# ---- the rule ---------------------------------------------------------------------------------------------------------


def made(folder, step, digest, right, n=100, **metrics):
    """An artifact of which so many answers are right, the first ones."""
    path = folder / digest[:4] / step
    path.mkdir(parents=True)
    if right is not None:
        label = np.zeros(n, np.int64)
        logits = np.zeros((n, 2), np.float32)
        logits[np.arange(n), np.where(np.arange(n) < right, 0, 1)] = 1
        predictions.save(path, Predictions.make(np.arange(n), label, logits, "test"))
    return Artifact(path, {"step": step, "digest": digest, "key": "0" * 64, "metrics": metrics, "inputs": {}})


@pytest.mark.parametrize("lost, within", [(0, True), (1, True), (3, True), (4, False), (30, False)])
def test_other_bytes_are_judged_by_two_standard_errors_of_the_paired_difference(tmp_path, lost, within):
    n = 100
    old, new = made(tmp_path, "student", "a" * 64, 90), made(tmp_path, "student", "b" * 64, 90 - lost)
    found = judge(old, new, False, Tolerance(1.25))
    assert within == (lost / n <= 2 * math.sqrt(lost - lost**2 / n) / n)  # the rule by hand
    assert found.answer == ("within noise" if within else "different")
    assert judge(old, new, True, Tolerance(1.25)).answer == "different", "where equal bytes were expected"


@pytest.mark.parametrize("ratio, within", [(1.24, True), (1 / 1.24, True), (1.26, False), (1 / 1.26, False)])
def test_latency_is_judged_by_the_stated_ratio(tmp_path, ratio, within):
    old = made(tmp_path, "bench/x@cpu", "a" * 64, 90, latency_p50_ms=1.0)
    new = Artifact(old.path, {**old.manifest, "metrics": {"latency_p50_ms": ratio}})
    assert judge(old, new, True, Tolerance(1.25)).answer == ("within noise" if within else "different")


def test_the_worst_step_decides_and_bytes_that_nothing_judges_are_different(tmp_path):
    old, new = made(tmp_path, "export/x", "a" * 64, None), made(tmp_path, "export/x", "b" * 64, None)
    unjudged = judge(old, new, False, Tolerance(1.25))
    same, noise = replace(unjudged, answer="same"), replace(unjudged, answer="within noise")
    different = replace(unjudged, answer="different")
    assert unjudged.answer == "not judged"
    assert overall([same, same]) == "same"
    assert overall([same, unjudged, noise]) == overall([unjudged, same]) == "within noise"
    assert overall([unjudged]) == overall([same, unjudged]) == overall([same, different, noise]) == "different"


def test_only_what_may_change_bytes_makes_conditions_unlike():
    recorded_as = {"versions": {"numpy": "2"}, "host": {"name": "a", "system": "L", "machine": "m", "processor": "p"}}
    host = {"name": "b", "system": "L", "machine": "m", "processor": "q"}
    assert reproduced.unlike(recorded_as, {"numpy": "2"}, host) == ["processor p -> q"]
    assert reproduced.unlike(recorded_as, {"numpy": "3"}, {**host, "processor": "p"}) == ["numpy 2 -> 3"]
