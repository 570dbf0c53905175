"""Ranges of least squared error, against a plain search in NumPy."""

import numpy as np
import pytest
from onnx import helper

from edgekd.quantizers import calibrate, qdq
from tests.quantgraphs import CLASSES, build, images, stack
from tests.tolerances import SEARCH_ERROR


def squared(values, made, form, counts=None):
    steps = np.clip(np.rint(values / made.scale) + made.zero_point, form.lowest, form.highest)
    return float(np.average((values - (steps - made.zero_point) * made.scale) ** 2, weights=counts))


def best(values, form, counts):
    """The least error over 120 x 120 ranges, straight from the values."""
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    parts = np.linspace(0.1, 1, 120)
    lows = [1.0] if form.symmetric or low == 0 else parts
    ranges = [(low * (up if form.symmetric else down), high * up) for down in lows for up in parts]
    return min(squared(values, calibrate.made(*ends, form), form, counts) for ends in ranges)


@pytest.mark.parametrize("scheme", qdq.FORMS)
@pytest.mark.parametrize("kind", ["normal", "outlier", "positive", "negative"])
def test_the_search_comes_near_the_best_range(kind, scheme, monkeypatch):
    bulk = np.random.default_rng(7).normal(size=2000).astype(np.float32)
    bulk = {"positive": np.abs(bulk) + 0.5, "negative": -np.abs(bulk)}.get(kind, bulk)
    times, far = (1000, np.array([30], np.float32)) if kind == "outlier" else (2, bulk[:1])
    batches = [*[bulk] * times, far]  # one value in 2 million, which a range should not reach out to
    monkeypatch.setattr(calibrate, "observed", lambda *_: iter([{"x": batch} for batch in batches]))
    found = calibrate.least_error(None, [], scheme, ["x"])["x"]
    form, values = qdq.FORMS[scheme], np.append(bulk, far)
    counts = np.append(np.full(len(bulk), times), 1)
    assert squared(values, found, form, counts) <= best(values, form, counts) * SEARCH_ERROR
    if kind == "outlier":
        widest = calibrate.made(float(values.min()), float(values.max()), form)
        assert squared(values, found, form, counts) < 0.7 * squared(values, widest, form, counts)
    assert form.lowest <= found.zero_point <= form.highest and (found.zero_point == 0 or not form.symmetric)


@pytest.mark.parametrize("constant", [0.0, 2.5, -1.5])
def test_a_value_that_never_changes_keeps_it(constant, monkeypatch):
    batch = {"x": np.full((4, 3), constant, np.float32)}
    monkeypatch.setattr(calibrate, "observed", lambda *_: iter([batch]))
    for scheme, form in qdq.FORMS.items():
        found = calibrate.least_error(None, [], scheme, ["x"])["x"]
        assert squared(batch["x"], found, form) < 1e-4 and found.scale > 0


def test_observed_values_are_those_of_the_network():
    model, batch = stack(), images(9)
    found = list(calibrate.observed(model, [batch[:4], batch[4:]], ["input", "a", "b", "logits"]))
    assert [len(part["a"]) for part in found] == [4, 5]
    joined = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    assert np.array_equal(joined["input"], batch)
    assert np.array_equal(joined["b"], np.maximum(joined["a"], 0)) and (joined["a"] < 0).any()
    assert joined["logits"].shape == (9, CLASSES)


def test_methods_that_hold_all_images_say_whether_they_fit(monkeypatch):
    model = stack()
    monkeypatch.setattr(calibrate, "HELD_BYTES", calibrate.held_bytes(model, 10))
    for method in (*calibrate.METHODS, "mse"):
        assert calibrate.fits(model, 10, method)
        assert calibrate.fits(model, 11, method) == (method not in calibrate.HOLDING)


def test_a_graph_of_one_layer_can_be_calibrated():
    weights = {"w": np.ones((CLASSES, 1, 12, 12), np.float32)}
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["a"], "only"),
        helper.make_node("Flatten", ["a"], ["logits"], "flat"),
    ]
    model = build(nodes, weights, (1, 12, 12), "one")
    found = calibrate.limits(model, [images(5), images(3, seed=8)], "minmax", "u8s8")
    both = np.concatenate([images(5), images(3, seed=8)])
    assert found["input"] == (both.min(), both.max())
