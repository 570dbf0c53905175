"""Equalization: the same network with other weights, where that is so, and nothing touched where it is not."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekd import agreement, onnxfile
from edgekd.quantizers.equalize import equalized, pairs
from edgekd.quantizers.ptq import PTQ
from tests.quantgraphs import answers, images, stack, varied
from tests.tolerances import EQUALIZED_ERROR_TO_RANGE, RANGES_BALANCED


def weights(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def sizes(model, groups):
    """Largest weight of each channel, in the layer that makes it and in the one that reads it."""
    values = weights(model)
    read = np.abs(values["c2.w"]).reshape(groups, 8 // groups, 8 // groups, 9)
    return np.abs(values["c1.w"]).max(axis=(1, 2, 3)), read.max(axis=(1, 3)).reshape(-1)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])  # 8: depthwise
def test_the_function_stays_and_the_channels_become_alike(groups):
    model = stack(groups=groups)
    changed = equalized(model)
    batch = images(50)
    first, second = answers(model, batch), answers(changed, batch)
    assert agreement.max_abs_error(first, second) < EQUALIZED_ERROR_TO_RANGE * agreement.logit_range(first)
    above, below = sizes(model, groups)
    assert (above / below).max() / (above / below).min() > 100  # they were not
    above, below = sizes(changed, groups)
    assert np.allclose(above, below, rtol=RANGES_BALANCED)
    assert model == stack(groups=groups)  # the one given is as it was


def test_it_pays_where_channels_are_uneven(tmp_path):
    """A per-tensor activation step loses the small channels; equalized they have steps of their own size."""
    model, batch = stack(groups=8), images(200, seed=4)
    path = onnxfile.save(model, tmp_path / "graph.onnx")
    found = {}
    for equal in (False, True):
        method = PTQ("minmax", equalize=equal)
        made = method.quantize(path, tmp_path / "q.onnx", calibration=[images(60)], scheme="u8s8")
        found[equal] = agreement.sqnr_db(answers(model, batch), answers(onnxfile.load(made), batch))
    assert found[True] > found[False] + 3


def test_chains_of_several_are_balanced_together():
    model = varied()
    found = [(pair.first.name, pair.second.name) for pair in pairs(model)]
    assert found == [("c1", "dw")]  # behind `dw` there is a Clip, behind `gr` a gate, and `g` has two readers
    batch = images(40)
    first, second = answers(model, batch), answers(equalized(model), batch)
    assert agreement.max_abs_error(first, second) < EQUALIZED_ERROR_TO_RANGE * agreement.logit_range(first)


@pytest.mark.parametrize("between", ["Clip", "Sigmoid", "HardSwish", "Softplus"])
def test_what_does_not_scale_is_left_alone(between):
    model = stack(between=between)
    assert pairs(model) == [] and weights(equalized(model)).keys() == weights(model).keys()
    assert all(np.array_equal(value, weights(equalized(model))[name]) for name, value in weights(model).items())


def test_a_weight_or_a_value_with_two_readers_is_left_alone():
    model = stack()
    extra = helper.make_node("GlobalAveragePool", ["b"], ["other"], "reader")
    model.graph.node.append(extra)
    assert pairs(model) == []
    shared = stack()
    next(node for node in shared.graph.node if node.name == "c2").input[2] = "c1.b"
    assert pairs(shared) == []


def test_a_dead_channel_stays_dead():
    model = stack()
    for tensor in model.graph.initializer:
        if tensor.name in ("c1.w", "c1.b"):
            values = np.array(numpy_helper.to_array(tensor))
            values[3] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    changed = weights(equalized(model))
    assert all(np.isfinite(value).all() for value in changed.values())
    assert not changed["c1.w"][3].any() and np.array_equal(changed["c2.w"][:, 3], weights(model)["c2.w"][:, 3])
    onnx.checker.check_model(equalized(model))
