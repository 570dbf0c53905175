"""`bench --runtime all`: what is chosen, what is left out and why, and what is said in the end."""

import json
from dataclasses import fields

import pytest

from edgekd import profiles
from edgekd.commands import every_runtime, say_runtimes
from edgekd.commands.chain import ChainOptions
from edgekd.errors import StageFailed, UsageError
from edgekd.recipe import from_dict
from edgekd.tools import engines, place

RECIPE = from_dict(
    {"name": "toy", "data": {"use": "digits"}, "student": {"model": "resnet8", "checkpoint": "x"}, "export": ["onnx"]},
    "toy",
)


def test_every_runtime_of_the_processor_has_a_float_and_all_but_torch_an_int8_file():
    device = profiles.device("cpu")
    found = {(name, profiles.precision(t.scheme)) for t in profiles.targets().values() for name in t.runtimes}
    for runtime in device.runtimes:
        assert (runtime, "fp32") in found
        assert (runtime, "int8") in found or runtime == "torch"


def test_what_has_no_tool_is_left_out_with_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setenv(place.VARIABLE, str(tmp_path))
    monkeypatch.setattr(engines, "_here", lambda runtime: None)
    wanted, left = every_runtime.choose(profiles.device("cpu"))
    hints = {one.target: one.hint for one in left}
    assert hints["litert-int8"] == "edgekd tools install litert"
    assert {"onnx", "onnx-int8"} <= {target.name for target in wanted}
    assert not {target.name for target in wanted} & set(hints)


@pytest.mark.parametrize("given", [(["a"], None, None), (None, "trtexec", None), (None, None, ["onnx"])])
def test_what_it_has_no_use_for_is_refused(given):
    with pytest.raises(UsageError, match="not taken here"):
        every_runtime.refuse(*given)
    every_runtime.refuse(None, None, None)


def test_too_few_files_that_could_be_made_are_said_to_be_that(monkeypatch, tmp_path):
    refused = [every_runtime.Left("onnx", "data: not there", "edgekd data get")]
    monkeypatch.setattr(every_runtime, "export_each", lambda *a: ({}, refused))
    monkeypatch.setattr(every_runtime.current, "record", lambda *a: None)
    options = ChainOptions(**{**{f.name: None for f in fields(ChainOptions)}, "workspace": tmp_path})
    monkeypatch.setattr(every_runtime, "choose_recipe", lambda *a: (RECIPE, None))
    monkeypatch.setattr(every_runtime, "data_roots", lambda *a: ())
    with pytest.raises(StageFailed, match=r"0 of \d+ files could be made; onnx: data: not there") as error:
        every_runtime.every_runtime(options)
    assert error.value.hint == "edgekd data get"


def test_what_has_no_figure_of_speed_is_not_the_fastest(tmp_path, capsys):
    known = {"verdict": "valid", "load_ms": 1.0, "peak_memory_mib": 1.0}
    span = {"top1_low_percent": 87.0, "top1_high_percent": 89.0}
    runs = [{**run(name, p50, 88.0), **known} for name, p50 in (("a", 0.2), ("b", 0.1))]
    for one in runs:
        one["accuracy"] = {**one["accuracy"], **span}
    runs[0]["latency"]["end_to_end"] = {}
    told = {**facts(runs, [effect("b", "a", shown=True)]), "left_out": [], "threads": 1, "rounds": 20}
    say_runtimes.finish({**told, "files": {"a": 1, "b": 1}}, tmp_path, True, tmp_path)
    said = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in said["runs"]] == ["b", "a"]
    assert said["next"].startswith("edgekd ledger")  # these figures are no bench of the workspace, which `pareto` reads


def run(name, p50, top1):
    latency = {"end_to_end": {"p50_ms": p50, "p50_low_ms": p50, "p50_high_ms": p50}}
    return {"name": name, "latency": latency, "accuracy": {"top1_percent": top1, "n": 1000}}


def effect(first, second, shown, ratio=2.0):
    return {"first": first, "second": second, "shown": shown, "ratio": ratio, "low": ratio - 0.1, "high": ratio + 0.1}


def facts(runs, effects):
    names = [one["name"] for one in runs]
    return {
        "runs": runs,
        "effects": effects,
        "runtimes": {name: {"name": f"engine-{name}", "version": "1"} for name in names},
        "precisions": dict.fromkeys(names, "int8"),
    }


def test_the_sentence_names_the_fastest_those_that_are_even_and_the_next():
    runs = [run("a", 0.1, 88.0), run("b", 0.101, 88.4), run("c", 0.3, 88.2)]
    effects = [
        effect("a", "b", shown=False, ratio=1.01),
        effect("a", "c", shown=True, ratio=3.0),
        effect("b", "c", True),
    ]
    said = say_runtimes.advice(facts(runs, effects))
    assert said[0] == (
        "which runtime should I ship on this CPU: engine-a 1 with a (int8), 88.00 % at p50 0.1000 [0.1000, 0.1000] ms; "
        "not shown to be slower: engine-b 1 with b (int8); 3.00 [2.90, 3.10] times as fast as the next, engine-c 1 with c (int8)"
    )
    assert "0.40 pp below" in said[1] and "engine-b" in said[1]


def test_nothing_is_advised_where_no_time_counts():
    assert say_runtimes.advice(facts([run("a", 0.1, 88.0)], [])) == []
