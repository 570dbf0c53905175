"""`bench --runtime all`: what is chosen, what is left out and why, and what is said in the end."""

import pytest

from edgekd import profiles
from edgekd.commands import every_runtime, say_runtimes
from edgekd.errors import UsageError
from edgekd.tools import engines, place


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
