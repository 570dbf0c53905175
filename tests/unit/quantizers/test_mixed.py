"""Layers one by one, and the fewest of them in float that a budget needs."""

import numpy as np
import pytest
from onnx import numpy_helper

from edgekd import onnxfile, registry
from edgekd.analysis.sensitivity import LayerLoss, ranked
from edgekd.errors import CheckFailed, RecipeError
from edgekd.quantizers import judged, layers, qdq
from edgekd.quantizers.base import Range
from edgekd.quantizers.mixed import Mixed
from edgekd.quantizers.ptq import PTQ
from tests.quantgraphs import images, judge, stack, varied


def fragile(factor=300.0):
    """A depthwise layer of channels so uneven that one step for all of its input loses the small ones."""
    model = stack(groups=8)
    for tensor in model.graph.initializer:
        if tensor.name in ("c1.w", "c1.b", "c2.w"):
            values = np.array(numpy_helper.to_array(tensor))
            values[:1] *= factor if tensor.name != "c2.w" else 1 / factor
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


def quantized(model, tmp_path, **args):
    path = onnxfile.save(model, tmp_path / "graph.onnx")
    method = Mixed(**args)
    out = method.quantize(path, tmp_path / "q.onnx", calibration=[images(60)], scheme="u8s8", judge=judge(model, 1000))
    return onnxfile.load(out), method.decided


def in_int8(model):
    """Names of the layers whose weight is stored in int8."""
    return {node.name for node in model.graph.node if node.op_type in qdq.LAYERS and node.input[1].endswith("_Output")}


@pytest.mark.parametrize("scheme", qdq.FORMS)
def test_every_layer_is_looked_at_by_itself(scheme, tmp_path):
    model = varied()
    draft = PTQ("minmax").draft(onnxfile.save(model, tmp_path / "g.onnx"), [images(60)], scheme)
    bench = judge(model, 100)
    reference = judged.logits(draft.model, bench)
    told = []
    found = layers.losses(draft, bench, reference, told.append)
    assert [loss.layer for loss in found] == ["c1", "dw", "gr", "c2", "head"] and told == found
    assert all(15 < loss.sqnr_db < 150 for loss in found)
    again = judged.score(reference, judged.logits(draft.alone("gr"), bench), bench)
    assert found[2].sqnr_db == again.sqnr_db
    whole = judged.score(reference, judged.logits(draft.written(), bench), bench)
    assert whole.sqnr_db < max(loss.sqnr_db for loss in found)


def test_the_fragile_layer_is_found_and_kept_in_float(tmp_path):
    model, decided = quantized(fragile(), tmp_path, max_drop_pp=4.0, of=[{"use": "ptq", "calibrate": "minmax"}])
    assert decided["float_layers"] >= 1 and decided["float_layer_names"].split(", ")[0] == "c2"
    assert in_int8(model) == {"c1", "c2", "fc"} - set(decided["float_layer_names"].split(", "))
    assert decided["int8_layers"] == len(in_int8(model))
    scores = [judged.Score(**{k: v for k, v in one.items() if k != "float_layers"}) for one in decided["tried"]]
    good = [score.drop_bound_pp <= 4 and score.parity for score in scores]
    assert good == [False] * decided["float_layers"] + [True]


def test_nothing_stays_in_float_where_nothing_is_lost(tmp_path):
    model, decided = quantized(varied(), tmp_path, max_drop_pp=50.0)
    assert decided["float_layers"] == 0 and decided["float_layer_names"] == ""
    assert in_int8(model) == {"c1", "dw", "gr", "c2", "head"}
    plain = PTQ().quantize(tmp_path / "graph.onnx", tmp_path / "p.onnx", calibration=[images(60)], scheme="u8s8")
    assert onnxfile.load(plain) == model


def test_a_budget_that_nothing_keeps_fails_with_its_figures(tmp_path, monkeypatch):
    real = judged.score
    worse = {"drop_pp": 7.0, "drop_bound_pp": 9.0}
    monkeypatch.setattr(judged, "score", lambda *args: type(real(*args))(**{**vars(real(*args)), **worse}))
    with pytest.raises(CheckFailed, match=r"2 of 3 layers in float 7\.00 points are lost, at most 9\.00") as caught:
        quantized(stack(), tmp_path, max_drop_pp=1.0)
    assert caught.value.exit_code == 3


def test_images_that_cannot_resolve_the_budget_are_refused():
    Mixed(max_drop_pp=0.5).check_judge(1000)
    with pytest.raises(RecipeError, match=r"max_drop_pp.*0\.5 points"):
        Mixed(max_drop_pp=0.5).check_judge(300)


def test_it_wraps_one_quantizer_that_knows_layers(tmp_path):
    path = onnxfile.save(stack(), tmp_path / "g.onnx")
    options = {"calibration": [images(10)], "scheme": "u8s8"}
    for of in ([], [{"use": "ptq"}, {"use": "ptq"}]):
        with pytest.raises(RecipeError, match="one"):
            Mixed(of=of)
    with pytest.raises(RecipeError, match="fp16"):
        Mixed(of=[{"use": "fp16"}]).quantize(path, tmp_path / "q.onnx", judge=judge(stack(), 900), **options)
    with pytest.raises(RecipeError, match="no image to decide"):
        Mixed().quantize(path, tmp_path / "q.onnx", **options)
    with pytest.raises(RecipeError, match="ranges"):
        Mixed().quantize(path, tmp_path / "q.onnx", ranges={"a": Range(1, 0)}, **options)


def test_its_member_and_no_other_is_in_the_listing():
    assert registry.members("quantizers", "mixed", {}) == [("ptq", {})]
    checked = registry.check("quantizers", "mixed", {"of": [{"use": "ptq", "calibrate": "mse"}]}, "quantize")
    assert registry.members("quantizers", "mixed", checked) == [("ptq", {"calibrate": "mse"})]
    assert registry.check("quantizers", "mixed", {"of": [{"use": "ptq"}]}, "quantize") == {}
    with pytest.raises(RecipeError, match="made of others itself"):
        registry.check("quantizers", "mixed", {"of": [{"use": "mixed"}]}, "quantize")


def test_layers_are_put_in_order_by_noise():
    losses = [LayerLoss(name, "Conv", db, 99.0, 90.0, 0.1) for name, db in (("a", 40.0), ("b", 20.0), ("c", 30.0))]
    assert [loss.layer for loss in ranked(losses)] == ["b", "c", "a"]


def test_fewer_images_are_spread_over_all():
    bench = judge(stack(), 100)
    few = layers.fewer(bench, 10)
    assert few.rows.tolist() == list(range(0, 100, 10))
    assert np.array_equal(few.labels, bench.labels[few.rows]) and layers.fewer(bench, 100) is bench


@pytest.mark.parametrize(
    ("images_seen", "same", "passes"),
    [
        (2000, 1961, False),  # 98.05 %: just inside by luck, seen to fail on test with 97.95
        (2000, 1972, True),  # 98.6 %
        (10_000, 9830, True),
        (1000, 1000, True),
        (60, 60, True),  # so few can show no more
        (60, 59, False),
    ],
)
def test_parity_is_decided_by_a_bound_and_not_by_the_luck_of_the_images(images_seen, same, passes):
    score = judged.Score(images_seen, 100 * same / images_seen, 30.0, 90.0, 0.0, 0.1)
    assert score.parity is passes
    assert not judged.Score(images_seen, 100.0, 24.9, 90.0, 0.0, 0.1).parity
