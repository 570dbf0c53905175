"""`edgekd bench A B`, `--against` and `pareto` on a real small chain; the times themselves are for nobody's use."""

import json
import shutil
import sys
from functools import cache, partial
from types import SimpleNamespace

import numpy as np
import pytest

from edgekd import recipe as recipes
from edgekd.commands import say_turns
from edgekd.commands.bench_turns import TurnsOptions, find_entries
from edgekd.commands.in_turn import in_turn
from edgekd.commands.pareto import pareto
from edgekd.console import Console
from edgekd.errors import MissingTool, StageFailed, UsageError
from edgekd.keys import Settings
from edgekd.pipeline import run, steps_of
from edgekd.stages import bench_turns, rivals
from edgekd.stages.bench_turns import Measured
from edgekd.stages.turns import Rounds, take_turns
from edgekd.store import Store

TINY = {
    "name": "tiny",
    "data": {"use": "digits", "train": 200},
    "student": {"model": "resnet8", "fit": {"epochs": 1, "lr": 0.1, "device": "cpu"}},
    "distill": {"use": "ce"},
    "quantize": {"images": 32},
    "export": ["onnx", "onnx-int8"],
    "bench": {"profile": "smoke"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace with two exported files and its current run."""
    from edgekd.commands import current

    workspace = tmp_path_factory.mktemp("turns")
    recipe = recipes.from_dict(TINY, "tiny")
    outcomes = run(recipe, steps_of(recipe, until="export"), Settings(workspace, (), None, Console(quiet=True), 1))
    current.record(workspace, recipe, None, outcomes)
    return workspace


@pytest.mark.parametrize(("section", "kept"), [({"bench": {"profile": "quick"}}, True), ({"seed": 1}, False)])
def test_measured_otherwise_is_still_the_same_run(made, tmp_path, section, kept):
    from edgekd.commands import current

    workspace = shutil.copytree(made, tmp_path / "w")
    recipe = recipes.from_dict({**TINY, **section}, "tiny")
    steps = [step for step in steps_of(recipe, until="export", targets=["onnx-int8"]) if step.name == "data"]
    outcomes = run(recipe, steps, Settings(workspace, (), None, Console(quiet=True), 1))
    current.record(workspace, recipe, None, outcomes)
    assert ("export/onnx" in current.head(workspace).steps) == kept


def test_a_target_that_was_not_exported_has_the_line_that_does_it(made):
    with pytest.raises(UsageError) as caught:
        in_turn(["onnx", "tensorrt-int8"], None, options(made))
    assert caught.value.hint == f"edgekd export --format tensorrt-int8 --workspace {made}"


SITTINGS = 2  # each costs a start of every process


def shorten(patch):
    """Blocks of a few milliseconds."""
    patch.setattr(bench_turns, "take_turns", partial(take_turns, block_seconds=0.01))
    patch.setattr(bench_turns, "SITTINGS", SITTINGS)
    patch.setattr(bench_turns, "PROFILES", {"smoke": SimpleNamespace(seconds=0.2)})


@pytest.fixture
def brief(monkeypatch):
    shorten(monkeypatch)


def options(workspace, **more):
    plain = {"device": "cpu", "workspace": workspace, "data_root": None, "set_": None, "output": None, "json": True}
    return {**plain, **more}


def said(capsys):
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def measured(made, tmp_path_factory):
    """One real run of two files."""
    place = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        in_turn(["onnx", "export/onnx-int8"], None, options(made, output=place))
    return place


def test_two_files_take_turns_and_their_ratio_has_an_interval(made, measured):
    facts = json.loads((measured / "turns.json").read_text())
    assert [one["name"] for one in facts["runs"]] == ["onnx", "onnx-int8"]
    assert {one["verdict"] for one in facts["runs"]} <= {"valid", "valid-unlocked"}
    (effect,) = facts["effects"]
    assert {effect["first"], effect["second"]} == {"onnx", "onnx-int8"}
    assert effect["low"] <= effect["ratio"] <= effect["high"]
    assert effect["rounds"] == facts["rounds"] >= 20
    for one in facts["runs"]:
        whole = one["latency"]["end_to_end"]
        assert whole["n"] == facts["rounds"] * facts["queries_a_block"][one["name"]]
        assert len(one["round_p50_ms"]["end_to_end"]) == facts["rounds"]
        assert one["accuracy"]["n"] == 359  # of the 1,797 digits, a fifth
    medians = {one["name"]: np.array(one["round_p50_ms"]["end_to_end"]) for one in facts["runs"]}
    each = (medians[effect["second"]] / medians[effect["first"]]).reshape(SITTINGS, -1)
    assert effect["ratio"] == pytest.approx(np.exp(np.log(np.median(each, axis=1)).mean()))
    assert effect["sittings"] == facts["sittings"] == SITTINGS
    assert not list((made / "turns").glob(".work*"))


def test_the_table_and_the_words_are_for_people(measured, capsys, tmp_path):
    facts = json.loads((measured / "turns.json").read_text())
    say_turns.finish(facts, tmp_path, False, "edgekd pareto")
    out = capsys.readouterr().out
    assert "p50 ms [95 %]" in out
    assert "times as fast as" in out or "no difference shown" in out
    assert out.splitlines()[-1] == "next: edgekd pareto"


def test_onnxruntimes_own_loop_is_held_against_the_inference_part(made, brief, capsys):
    in_turn(["onnx"], "onnxruntime", options(made))
    facts = said(capsys)
    assert [one["name"] for one in facts["runs"]] == ["edgekd", "onnxruntime"]
    assert facts["part"] == "inference"
    assert facts["effects"][0]["rounds"] == facts["rounds"]
    assert not [path for path in (made / "turns").iterdir() if path.name.startswith(".work")]


def test_a_file_of_the_users_takes_part_as_it_is(made, tmp_path):
    source = Store(made).newest("export/onnx").path / "model.onnx"
    shutil.copyfile(source, tmp_path / "mine.onnx")
    shutil.copytree(made, tmp_path / "w")
    found = find_entries(asked(tmp_path / "w", str(tmp_path / "mine.onnx"), "onnx-int8"), Console(quiet=True))
    assert [one.params.target for one in found] == ["onnx", "onnx-int8"]
    assert found[0].inputs["export"].id != Store(made).newest("export/onnx").id


@pytest.mark.parametrize(
    ("files", "rival", "more", "words"),
    [
        (["onnx"], None, {}, "two or more"),
        (["onnx", "export/onnx"], None, {}, "named twice"),
        (["onnx", "graph"], None, {}, "is a graph artifact"),
        (["onnx", "nothing"], None, {}, "no such artifact"),
        (["onnx", "onnx-int8"], None, {"recipe": "quickstart"}, "--recipe is not taken"),
        (["onnx", "onnx-int8"], None, {"dry_run": True}, "--dry-run is not taken"),
        (["onnx"], "onnxruntim", {}, "did you mean 'onnxruntime'"),
        (["onnx", "onnx-int8"], "onnxruntime", {}, "2 files"),
    ],
)
def test_what_cannot_be_measured_in_turn_is_refused_before_work(made, files, rival, more, words):
    with pytest.raises(UsageError) as error:
        in_turn(files, rival, options(made, **more))
    assert words in str(error.value)


@pytest.mark.parametrize("rival", ["trtexec", "benchmark_app"])
def test_a_rival_that_is_not_installed_is_exit_5_with_the_line(made, monkeypatch, rival):
    monkeypatch.setattr(rivals.shutil, "which", lambda *found, **where: None)
    with pytest.raises(MissingTool) as error:
        in_turn(["onnx"], rival, options(made))
    assert "install" in error.value.hint
    assert not [path for path in (made / "turns").glob(".work*") if path.is_dir()]


def fake(path, said):
    path.write_text(f"#!{sys.executable}\nimport sys, json\n{said}\n")
    path.chmod(0o755)
    return str(path)


def test_the_median_of_benchmark_app_is_read(made, tmp_path, monkeypatch):
    body = 'assert "-nthreads" in sys.argv; print("[ INFO ]    Median:        1.25 ms")'
    app = fake(tmp_path / "app", body)
    monkeypatch.setattr(rivals.shutil, "which", lambda *found, **where: app)
    contender = rivals.names()["benchmark_app"](entry(made), tmp_path)
    assert contender.step(5)["end_to_end"].tolist() == [1_250_000]
    fake(tmp_path / "app", "print('nothing'); sys.exit(0)")
    with pytest.raises(StageFailed, match="no median"):
        contender.step(5)
    fake(tmp_path / "app", "sys.stderr.write('no such device'); sys.exit(1)")
    with pytest.raises(StageFailed, match="no such device"):
        contender.step(5)


def test_the_times_of_trtexec_are_read(made, tmp_path, monkeypatch):
    """Its options and its file as documented; no TensorRT runs here."""
    body = """
for word in sys.argv:
    if word.startswith("--saveEngine="):
        open(word.partition("=")[2], "w")
    if word.startswith("--exportTimes="):
        json.dump([{"latencyMs": 0.5}, {"latencyMs": 0.25}, {"latencyMs": 0.3}], open(word.partition("=")[2], "w"))
open(sys.argv[0] + ".log", "a").write(" ".join(sys.argv[1:]) + "\\n")
"""
    app = fake(tmp_path / "trtexec", body)
    monkeypatch.setattr(rivals.shutil, "which", lambda *found, **where: app)
    contender = rivals.names()["trtexec"](entry(made), tmp_path)
    assert [contender.step(7)["end_to_end"].tolist() for _ in range(2)] == [[300_000]] * 2
    calls = (tmp_path / "trtexec.log").read_text().splitlines()
    assert ["--saveEngine" in call for call in calls] == [True, False, False]
    assert "--shapes=input:1x1x8x8" in calls[0]
    assert "--iterations=7" in calls[1]


def asked(workspace, *references):
    return TurnsOptions(references, "cpu", workspace, None, None, None, True)


@cache
def entry(workspace):
    return find_entries(asked(workspace, "onnx"), Console(quiet=True))[0]


def test_an_emulated_device_shows_no_times_and_no_ratio(made):
    one = entry(made)
    block = {"end_to_end": np.full(9, 1000, np.int64)}
    result = {"kind": "emulated", "verdict": "valid-unlocked", "reasons": ["emulated: correctness only"]}
    found = Measured(Rounds({one.name: [block] * 20}, [[one.name]] * 20, {one.name: 9}), {one.name: result})
    facts = say_turns.facts_of("bench", [one], found, [{"words": "twice as fast"}], 0)
    assert facts["effects"] == []
    assert facts["runs"][0]["latency"] == {}
    assert "round_p50_ms" not in facts["runs"][0]


@pytest.mark.parametrize(
    ("first", "shown", "advised"), [("onnx-int8", True, False), ("onnx", True, True), ("onnx-int8", False, True)]
)
def test_int8_that_is_not_faster_is_said_with_what_to_ship(made, first, shown, advised):
    entries = [entry(made), entry(made)]
    other = SimpleNamespace(manifest={"params": {"scheme": "u8s8"}})
    entries[1] = SimpleNamespace(name="onnx-int8", inputs={"export": other})
    second = "onnx" if first == "onnx-int8" else "onnx-int8"
    lines = say_turns.advice(entries, [{"first": first, "second": second, "shown": shown}])
    assert bool(lines) is advised
    if advised:
        assert "ship onnx," in lines[0]


def test_pareto_of_a_workspace_without_measurements_says_what_to_type(made):
    with pytest.raises(UsageError) as error:
        pareto(made, None, True)
    assert "edgekd bench" in error.value.hint


def bench(store, key, step="bench/onnx@cpu", **metrics):
    """A made-up measurement."""
    scratch = store.begin(step, key * 64)
    (scratch.out / "result.json").write_text(json.dumps({"made up": metrics}))
    plain = {"top1_percent": 90.0, "top1_low_percent": 89.0, "top1_high_percent": 91.0, "latency_p50_ms": 1.0}
    plain |= {"latency_p50_low_ms": 0.9, "latency_p50_high_ms": 1.1, "verdict": "valid", "kind": "this CPU"}
    params = {"target": "onnx", "device": "cpu", "runtime": "onnxruntime", "threads": 1}
    facts = {"metrics": {**plain, **metrics}, "params": params, "inputs": {}, "environment": {"chip": "X"}}
    return store.seal(scratch, step, key * 64, ("result.json",), facts, again=True)


def test_pareto_leaves_out_what_is_no_measurement_and_says_how_many(tmp_path, capsys):
    store = Store(tmp_path)
    bench(store, "a", latency_p50_ms=5.0, latency_p50_low_ms=4.9, latency_p50_high_ms=5.1)
    again = bench(store, "a")
    bench(store, "b", verdict="void")
    bench(store, "c", kind="emulated", step="bench/onnx@jetson")
    bench(store, "d", latency_p50_ms=3.0, latency_p50_low_ms=2.9, latency_p50_high_ms=3.1)
    pareto(tmp_path, tmp_path / "out", True)
    facts = said(capsys)
    assert sorted(one["why"] for one in facts["left_out"]) == ["emulated", "void"]
    (group,) = facts["groups"]
    assert group["points"][0]["artifact"] == again.id  # of a repeated one the last
    assert len(group["points"]) == 2
    assert group["points"][1]["dominated_by"] == [group["points"][0]["name"]]
    assert (tmp_path / "out" / group["picture"]).read_bytes().startswith(b"<?xml")
    pareto(tmp_path, None, False)
    out = capsys.readouterr().out
    assert "left out: 1 void, 1 emulated" in out
    assert out.splitlines()[-1].startswith("next: ")
