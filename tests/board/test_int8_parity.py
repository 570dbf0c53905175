"""Integer arithmetic of ONNX Runtime on aarch64 against x86, operator by operator: the same bytes in, the same bytes out.

All but the residual additions: QLinearAdd computes in float32 in another order there, and where a sum falls on the border of
two steps it takes the other one. What that does to a whole network is bounded in `test_board_path.py`.
"""

import json
import shutil

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from edgekd.runner.image import Normaliser
from edgekd.store import Store
from tests.tolerances import QLINEAR_ADD_OTHER_STEPS

pytestmark = pytest.mark.device
IMAGES = 32
INTEGER = ("QuantizeLinear", "QLinearConv", "QGemm")
PLAIN = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
EVERYTHING = """
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
session = ort.InferenceSession("every.onnx", options, providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
values = session.run(names, {session.get_inputs()[0].name: np.load("x.npy")})
np.savez("values.npz", **{str(i): value for i, value in enumerate(values)})
"""


@pytest.fixture(scope="module")
def run(board, chain_source, tmp_path_factory):
    """(nodes, initializers, {tensor: its value on the board}) of the fused int8 student."""
    store = Store(chain_source / "workspace")
    folder = tmp_path_factory.mktemp("int8")
    x = inputs(store)
    model = fused(store.newest("export/onnx-int8").path / "model.onnx", folder)
    names = [output.name for output in model.graph.output]
    place = board.file("root/int8")
    place.mkdir()
    shutil.copy(folder / "every.onnx", place)
    np.save(place / "x.npy", x)
    (place / "every.py").write_text(EVERYTHING)
    done = board.run("cd int8 && python3 every.py")
    assert done.returncode == 0, done.stderr
    with np.load(place / "values.npz") as file:
        values = {name: file[str(i)] for i, name in enumerate(names)}
    return model, {model.graph.input[0].name: x, **values}


def inputs(store):
    images = np.load(store.newest("data").path / "images_test.npy")[:IMAGES]
    facts = json.loads((store.newest("export/onnx-int8").path / "model.json").read_text())["normalize"]
    return Normaliser(tuple(facts["mean"]), tuple(facts["std"]))(images)


def fused(path, folder):
    """The graph as ONNX Runtime runs it, integer operators in it, every tensor an output."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "fused.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = onnx.load(folder / "fused.onnx")
    known = {output.name for output in model.graph.output}
    inner = [name for node in model.graph.node for name in node.output if name and name not in known]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    onnx.save(model, folder / "every.onnx")
    return model


def here(model, node, values):
    """One node on this machine, fed what it was fed on the board."""
    kept = [tensor for tensor in model.graph.initializer if tensor.name in node.input]
    fed = {name: values[name] for name in node.input if name in values}
    given = [helper.make_tensor_value_info(name, tensor_type(value), value.shape) for name, value in fed.items()]
    told = [onnx.ValueInfoProto(name=node.output[0])]
    graph = helper.make_graph([node], "one", given, told, kept)
    one = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = ort.SessionOptions()
    options.graph_optimization_level = PLAIN
    session = ort.InferenceSession(one.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, fed)[0]


def tensor_type(value):
    return {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.uint8): TensorProto.UINT8}[value.dtype]


@pytest.mark.parametrize("operator", INTEGER)
def test_the_same_bytes_give_the_same_bytes(run, operator):
    model, values = run
    nodes = [node for node in model.graph.node if node.op_type == operator]
    assert nodes, f"no {operator} in the graph"
    for node in nodes:
        np.testing.assert_array_equal(values[node.output[0]], here(model, node, values), err_msg=node.name)


def test_a_residual_addition_differs_by_one_step_at_a_border_at_most(run):
    model, values = run
    nodes = [node for node in model.graph.node if node.op_type == "QLinearAdd"]
    assert nodes
    for node in nodes:
        difference = values[node.output[0]].astype(int) - here(model, node, values).astype(int)
        assert np.abs(difference).max() <= 1
        assert np.mean(difference != 0) <= QLINEAR_ADD_OTHER_STEPS
