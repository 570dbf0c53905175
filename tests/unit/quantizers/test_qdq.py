"""The files of the int8 schemes: what is rounded, with what, and that odd networks come through."""

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from edgekd import agreement, onnxfile, onnxrun
from edgekd.errors import RecipeError, StageFailed
from edgekd.quantizers import ptq, qdq
from edgekd.quantizers.base import Range
from edgekd.quantizers.ptq import PTQ
from tests.quantgraphs import answers, chain, images, stack, varied
from tests.tolerances import ODD_INT8_SQNR_DB


@pytest.fixture
def graph(tmp_path):
    return onnxfile.save(varied(), tmp_path / "graph.onnx")


def stored(model):
    return {tensor.name: tensor for tensor in model.graph.initializer}


def made(path, out, scheme, **more):
    options = {"calibration": [images(60)], "scheme": scheme}
    method = PTQ(**more.pop("args", {"calibrate": "minmax"}))
    return onnxfile.load(method.quantize(path, out, **options, **more))


@pytest.mark.parametrize("scheme", qdq.FORMS)
@pytest.mark.parametrize("calibrate", ptq.CANDIDATES)
def test_odd_operators_come_through_every_calibrator(calibrate, scheme, graph, tmp_path):
    args = {"calibrate": calibrate, "bias_correction": True, "equalize": True}
    model = made(graph, tmp_path / "q.onnx", scheme, args=args)
    onnxfile.check(model, "test")
    float_answers, found = (answers(m, images(80, seed=5)) for m in (varied(), model))
    assert agreement.sqnr_db(float_answers, found) > ODD_INT8_SQNR_DB
    layers = {node.name: node for node in qdq.layers(varied())}
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.name in layers:
            assert {makers[name].op_type for name in node.input[:2]} == {"DequantizeLinear"}


def test_the_form_for_tensorrt_has_no_zero_point_no_integer_bias_and_rounds_inputs_alone(graph, tmp_path):
    model = made(graph, tmp_path / "q.onnx", "s8-trt")
    tensors = stored(model)
    kinds = {tensors[n.input[0]].data_type for n in model.graph.node if n.input and n.input[0] in tensors}
    assert TensorProto.INT32 not in kinds and TensorProto.UINT8 not in {t.data_type for t in tensors.values()}
    readers = {name: node.op_type for node in model.graph.node for name in node.input}
    rounds = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert rounds
    for node in rounds:
        assert not numpy_helper.to_array(tensors[node.input[2]]).any()
        restored = next(n for n in model.graph.node if n.input[0] == node.output[0])
        assert readers[restored.output[0]] in ("Conv", "Gemm", "Add")


def test_biases_that_stay_in_float_are_evaluated_so(tmp_path):
    path = onnxfile.save(chain(), tmp_path / "chain.onnx")
    model, batch = made(path, tmp_path / "q.onnx", "s8-trt"), images(80, seed=5)
    as_written = onnxrun.values(onnxfile.to_bytes(model), {onnxfile.INPUT: batch}, [onnxfile.OUTPUT])[0]
    np.testing.assert_array_equal(answers(model, batch), as_written)
    onnxfile.set_metadata(model, {})  # as onnxruntime takes it: biases rounded, too
    assert np.abs(answers(model, batch) - as_written).max() > 0.005 * np.abs(as_written).max()


def test_the_form_for_hexagon_rounds_around_every_operator_the_logits_too(graph, tmp_path):
    model = made(graph, tmp_path / "q.onnx", "qnn")
    tensors, makers = stored(model), {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[str]] = {model.graph.output[0].name: []}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    assert makers[model.graph.output[0].name].op_type == "DequantizeLinear"
    between = [n for n in model.graph.node if n.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    assert between
    for node in between:
        given = [name for name in node.input if name and name not in tensors]
        assert {makers[name].op_type for name in given} == {"DequantizeLinear"}, node.op_type
        assert {kind for name in node.output for kind in readers[name]} == {"QuantizeLinear"}, node.op_type


def test_logits_of_a_gemm_stay_in_float_and_those_of_a_convolution_do_not(tmp_path):
    with_gemm = onnxfile.save(stack(), tmp_path / "gemm.onnx")
    model = made(with_gemm, tmp_path / "q.onnx", "u8s8")
    assert next(n for n in model.graph.node if "logits" in n.output).op_type == "Gemm"
    assert not [name for name in stored(model) if name.startswith("logits")]
    with_conv = onnxfile.save(varied(), tmp_path / "conv.onnx")
    model = made(with_conv, tmp_path / "q2.onnx", "u8s8")
    assert next(n for n in model.graph.node if "logits" in n.output).op_type == "DequantizeLinear"


@pytest.mark.parametrize("scheme", qdq.FORMS)
def test_given_ranges_come_out_exactly_and_biases_follow_them(scheme, graph, tmp_path):
    random = np.random.default_rng(3)
    zero = (lambda: 0) if scheme == "s8-trt" else (lambda: int(random.integers(0, 200)))
    names = sorted(set(qdq.activations(qdq.prepare(graph), scheme).values()))
    ranges = {name: Range(float(np.float32(random.uniform(0.01, 0.1))), zero()) for name in names}
    assert len(names) > 5
    model = made(graph, tmp_path / "q.onnx", scheme, ranges=ranges)
    assert qdq.rounded(model) == ranges
    tensors = {name: numpy_helper.to_array(t) for name, t in stored(model).items()}
    if scheme == "u8s8":
        source = next(n for n in model.graph.node if n.name == "gr").input[0].removesuffix("_DequantizeLinear_Output")
        wanted = ranges[source].scale * tensors["gr.w_scale"]
        assert np.allclose(tensors["gr.b_quantized_scale"], wanted, rtol=1e-6)
        bias = {t.name: numpy_helper.to_array(t) for t in varied().graph.initializer}["gr.b"]
        assert np.array_equal(tensors["gr.b_quantized"], np.rint(bias / wanted.astype(np.float64)))


def test_nothing_is_calibrated_where_ranges_are_given(graph, tmp_path):
    ranges = dict.fromkeys(qdq.activations(qdq.prepare(graph), "u8s8").values(), Range(0.05, 3))
    first = made(graph, tmp_path / "a.onnx", "u8s8", ranges=ranges)
    method = PTQ(calibrate="auto")
    second = method.quantize(graph, tmp_path / "b.onnx", calibration=[], scheme="u8s8", ranges=ranges)
    assert first == onnxfile.load(second)


@pytest.mark.parametrize(
    ("change", "said"), [("fewer", "no range for"), ("more", "not rounded"), ("two", "two ranges")]
)
def test_ranges_of_other_activations_are_refused(change, said, graph, tmp_path):
    names = qdq.activations(qdq.prepare(graph), "u8s8")
    ranges = dict.fromkeys(names.values(), Range(0.05, 3))
    sharing = next(name for name, source in names.items() if name != source)
    if change == "fewer":
        del ranges[next(iter(ranges))]
    else:
        ranges["e.w" if change == "more" else sharing] = Range(0.04, 3)
    with pytest.raises(StageFailed, match=said):
        made(graph, tmp_path / "q.onnx", "u8s8", ranges=ranges)


def test_a_trained_network_is_not_changed_afterwards(graph, tmp_path):
    ranges = dict.fromkeys(qdq.activations(qdq.prepare(graph), "u8s8").values(), Range(0.05, 3))
    with pytest.raises(RecipeError, match="equalize"):
        made(graph, tmp_path / "q.onnx", "u8s8", ranges=ranges, args={"equalize": True})
    as_trained = made(graph, tmp_path / "q.onnx", "u8s8", ranges=ranges)
    asked = made(graph, tmp_path / "b.onnx", "u8s8", ranges=ranges, args={"bias_correction": False})
    assert asked.SerializeToString() == as_trained.SerializeToString()


def test_a_value_without_a_range_is_no_guess(graph):
    with pytest.raises(StageFailed, match="no range"):
        qdq.written(qdq.prepare(graph), "u8s8", {}, exact={"input": Range(0.01, 0)})
    with pytest.raises(StageFailed, match="cannot quantize"):
        qdq.written(qdq.prepare(graph), "u8s8", {"input": (np.float32(0), np.float32(1))})


def test_one_layer_alone_leaves_everything_else_as_it_is(graph):
    source = qdq.prepare(graph)
    limits = {name: (np.array(-4, np.float32), np.array(4, np.float32)) for name in qdq.activations(source, "u8s8")}
    model = qdq.written(source, "u8s8", limits, only="dw")
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") == 1 and kinds.count("DequantizeLinear") == 2
    assert [k for k in kinds if not k.endswith("Linear")] == [node.op_type for node in varied().graph.node]
    assert next(n for n in model.graph.node if n.op_type == "QuantizeLinear").input[0] == "b"


def test_what_stays_in_float_with_a_layer(graph):
    source = qdq.prepare(graph)
    assert qdq.around(source, ["gr"]) == ["clip"]
    assert qdq.around(source, ["dw", "gr"]) == ["relu", "clip"]
    assert qdq.around(source, ["c2"]) == []  # the pooled value goes to `head`, too
    assert qdq.around(source, ["head"]) == ["add", "mean", "flatten"]
    others = [node.name for node in source.graph.node if node.op_type != "Conv"]
    assert qdq.around(source, ["c1", "dw", "gr", "c2", "head"]) == others


@pytest.mark.parametrize("scheme", qdq.FORMS)
@pytest.mark.parametrize("calibrate", ["minmax", "mse"])
@pytest.mark.parametrize("kept", [["c1"], ["dw"], ["gr"], ["dw", "gr"], ["c2", "head"], ["c1", "dw", "gr", "c2"]])
def test_a_layer_in_float_reads_what_nothing_has_rounded_for_it(kept, calibrate, scheme, graph):
    model = PTQ(calibrate).draft(graph, [images(60)], scheme).written(kept)
    onnxfile.check(model, "test")
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "Conv":
            rounds = node.name not in kept
            assert (makers.get(node.input[1]) == "DequantizeLinear") == rounds
            # what `c2` reads the addition reads, too, in int8
            assert (makers.get(node.input[0]) == "DequantizeLinear") == (
                rounds or (node.name, kept[-1]) == ("c2", "c2")
            )
    batch = images(80, seed=5)
    assert agreement.sqnr_db(answers(varied(), batch), answers(model, batch)) > ODD_INT8_SQNR_DB


def test_with_all_layers_in_float_nothing_is_left_of_int8(graph):
    names = [node.name for node in qdq.layers(varied())]
    model = PTQ("mse").draft(graph, [images(60)], "u8s8").written(names)
    assert [node.op_type for node in model.graph.node] == [node.op_type for node in varied().graph.node]
    assert np.array_equal(answers(model, images(9)), answers(varied(), images(9)))


def test_schemes_are_those_of_the_forms():
    assert set(PTQ.schemes) == set(qdq.FORMS)
    assert qdq.FORMS["u8s8"].type.tensor_type == TensorProto.UINT8
