"""Who is dominated: against a brute-force reading of the rule, and what never stands on a table."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgekd.analysis import pareto
from edgekd.analysis.pareto import PROCESSES, Left, Point, Value
from edgekd.runner.bundle import REAL


def made(name, group=("cpu", "chip", 1, "this CPU"), **axes):
    values = {axis: Value(*value) for axis, value in axes.items()}
    return Point(f"bench/{name}", name, group, "onnxruntime 1", "valid", values)


def spans(point, axis):
    value = point.axes[axis]
    return value.low, value.high


FAST_GOOD = made("fast", top1_percent=(90, 89, 91), p50_ms=(1.0, 0.9, 1.1))


@pytest.mark.parametrize(
    ("other", "dominated"),
    [
        (made("b", top1_percent=(80, 79, 81), p50_ms=(2.0, 1.9, 2.1)), True),
        (made("b", top1_percent=(89.5, 88.5, 90.5), p50_ms=(2.0, 1.9, 2.1)), False),  # accuracies overlap
        (made("b", top1_percent=(80, 79, 81), p50_ms=(1.15, 1.05, 1.25)), False),  # latencies overlap
        (made("b", top1_percent=(90, 89, 91), p50_ms=(2.0, 1.9, 2.1)), True),  # the very same answers, slower
        (made("b", top1_percent=(80, 79, 81), p50_ms=(2, 1.9, 2.1), energy_mj=(1, 0.9, 1.1)), False),  # one has energy
    ],
)
def test_dominance_needs_intervals_that_separate(other, dominated):
    assert pareto.dominates(FAST_GOOD, other) is dominated
    assert not pareto.dominates(other, FAST_GOOD)


def test_equals_do_not_dominate_each_other():
    assert not pareto.dominates(FAST_GOOD, FAST_GOOD)


def test_the_front_is_that_of_brute_force():
    generator = np.random.default_rng(0)
    for _ in range(30):
        points = []
        for i in range(12):
            axes = {}
            for axis, low in (("top1_percent", 80.0), ("p50_ms", 0.2), ("energy_mj", 1.0)):
                value, half = low + 5 * generator.random(), 0.6 * generator.random()
                axes[axis] = (value, value - half, value + half)
            points.append(made(str(i), **axes))
        (group,) = pareto.groups(points)
        for row, one in ((r, next(p for p in points if p.name == r["name"])) for r in group["points"]):
            beaten = [
                other.name
                for other in points
                if spans(other, "top1_percent")[0] > spans(one, "top1_percent")[1]
                and spans(other, "p50_ms")[1] * PROCESSES < spans(one, "p50_ms")[0]
                and spans(other, "energy_mj")[1] < spans(one, "energy_mj")[0]
            ]
            assert sorted(row["dominated_by"]) == sorted(beaten)


@pytest.mark.parametrize(("slower", "beaten"), [(1.02, False), (1.05, True)])
def test_what_two_processes_of_one_file_differ_by_ranks_nothing(slower, beaten):
    answers = {"top1_percent": (90, 89, 91)}
    fast, slow = (made(str(p50), p50_ms=(p50, 0.999 * p50, 1.001 * p50), **answers) for p50 in (1.0, slower))
    assert pareto.dominates(fast, slow) is beaten


def test_unlike_devices_and_threads_stand_on_tables_of_their_own():
    axes = {"top1_percent": (90, 89, 91), "p50_ms": (1, 0.9, 1.1)}
    places = [("a", 1), ("a", 2), ("b", 1)]
    places = [("box", *place, kind) for place in places for kind in REAL] + [("cpu", "a", 1, REAL[0])]
    found = pareto.groups([made(str(i), place, **axes) for i, place in enumerate(places)])
    assert [(g["device"], g["chip"], g["threads"], g["kind"]) for g in found] == sorted(places)
    assert all(len(g["points"]) == 1 for g in found)


METRICS = {
    **{"top1_percent": 90.0, "top1_low_percent": 89.0, "top1_high_percent": 91.0},
    **{"latency_p50_ms": 1.0, "latency_p50_low_ms": 0.9, "latency_p50_high_ms": 1.1},
    **{"verdict": "valid", "kind": "board", "runtime": "onnxruntime 1.31"},
}


def bench(path, metrics=(), result=None, left=()):
    found = {key: value for key, value in {**METRICS, **dict(metrics)}.items() if key not in left}
    path.mkdir(exist_ok=True)
    (path / "result.json").write_text(json.dumps(result or {}))
    manifest = {"params": {"target": "onnx", "runtime": "onnxruntime", "threads": 2}, "environment": {"chip": "X"}}
    return SimpleNamespace(
        metrics=found, manifest=manifest, path=Path(path), id="bench/onnx@box/1", step="bench/onnx@box"
    )


@pytest.mark.parametrize(
    ("metrics", "left", "why"),
    [
        ({"verdict": "void"}, (), "void"),
        ({"kind": "emulated"}, ("latency_p50_ms",), "emulated"),
        ({"kind": "simulator"}, (), "simulator"),
        ({"kind": "estimated"}, (), "estimated"),
        ({}, ("latency_p50_low_ms",), "no interval of p50_ms"),
    ],
)
def test_what_is_no_latency_of_a_real_device_is_left_out_with_the_reason(tmp_path, metrics, left, why):
    found = pareto.point(bench(tmp_path / "a", metrics, left=left))
    assert found == Left("bench/onnx@box/1", why)
    assert pareto.reasons([found, found]) == {why: 2}


def test_a_kind_that_only_the_result_tells_is_heard(tmp_path):
    assert isinstance(pareto.point(bench(tmp_path / "a", result={"kind": "emulated"}, left=("kind",))), Left)


def test_a_measurement_becomes_a_point_with_its_energy(tmp_path):
    power = {"energy_mj": 4.0, "energy_low_mj": 3.9, "energy_high_mj": 4.1}
    one = pareto.point(bench(tmp_path / "a", result={"power": power}))
    assert one.group == ("box", "X", 2, "board")
    assert one.axes["energy_mj"] == Value(4.0, 3.9, 4.1)
    refused = pareto.point(bench(tmp_path / "b", result={"power": {"refused": "3 updates"}}))
    assert "energy_mj" not in refused.axes
    (group,) = pareto.groups([one, refused])
    assert group["without_energy"] == 1
    assert [pareto.cells(row)[-1] for row in group["points"]] == ["front", "front"]


def test_the_picture_is_svg_and_the_same_every_time():
    from edgekd.report import pareto_plot

    slow = made("slow & <odd>", top1_percent=(80, 79, 81), p50_ms=(2.0, 1.9, 2.1))
    (group,) = pareto.groups([FAST_GOOD, slow])
    drawn = pareto_plot.svg(group)
    assert drawn == pareto_plot.svg(group)
    from xml.etree import ElementTree

    text = "".join(ElementTree.fromstring(drawn).itertext())
    assert "slow & <odd>" in text and "hollow: dominated" in text
