"""ONNX files of strangers: what is read, what is brought into our form, what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd import onnxfile, onnxrun
from edgekd.errors import IntegrityError, RecipeError
from edgekd.onnximport import count, form, read
from edgekd.onnximport.form import Wanted, adopt

CLASSES, SIZE = 3, 8
WANTED = Wanted(CLASSES, 1, (SIZE, SIZE))
HIDDEN = 4
TOLERANCE = 1e-6  # of logits near 1: float32, the same products


def weights(opset=18):
    random = np.random.default_rng(0)
    arrays = {
        "kernel": random.normal(size=(HIDDEN, 1, 3, 3)).astype(np.float32),
        "bias": random.normal(size=HIDDEN).astype(np.float32),
        "matrix": random.normal(size=(HIDDEN * 16, CLASSES)).astype(np.float32) / 8,
        "shape": np.array([1, -1], dtype=np.int64),
    }
    return [numpy_helper.from_array(array, name) for name, array in arrays.items()]


def network(batch="n", opset=18, flatten="Flatten", ending=(), **changes):
    """Convolution, flattening, matrix product; `ending`: operators behind them. Names are those of a stranger."""
    flat = helper.make_node(
        flatten, ["c", "shape"] if flatten == "Reshape" else ["c"], ["input"]
    )  # a name that we want
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "bias"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        flat,
        helper.make_node("MatMul", ["input", "matrix"], ["y0"]),
        *(helper.make_node(kind, [f"y{i}"], [f"y{i + 1}"]) for i, kind in enumerate(ending)),
    ]
    kinds = {"x": TensorProto.FLOAT, "image": (batch, 1, SIZE, SIZE), "logits": (batch, CLASSES)} | changes
    graph = helper.make_graph(
        nodes,
        "stranger",
        [helper.make_tensor_value_info("x", kinds["x"], kinds["image"])],
        [helper.make_tensor_value_info(f"y{len(ending)}", TensorProto.FLOAT, kinds["logits"])],
        weights(),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def written(model, folder, name="m.onnx", **options):
    onnx.save(model, folder / name, **options)
    return folder / name


def images(n=5):
    return np.random.default_rng(1).normal(size=(n, 1, SIZE, SIZE)).astype(np.float32)


def answers(model, batch):
    return onnxrun.infer(onnxrun.session(model.SerializeToString()), batch)


def taken(model, folder, wanted=WANTED):
    return adopt(read.read(written(model, folder)), "m.onnx", wanted, 18)


# ---- our form, and the same answers -----------------------------------------------------------------------------------

FORMS = {
    "free batch": {},
    "unnamed batch": {"batch": None},
    "old operator set": {"opset": 11},
    "newer operator set": {"opset": 20},
    "one image": {"batch": 1},
    "one image and its shape": {"batch": 1, "flatten": "Reshape"},
    "free height and width": {"image": ("n", 1, "h", "w"), "logits": ("n", CLASSES)},
    "softmax": {"ending": ("Softmax",)},
    "old softmax": {"ending": ("Softmax",), "opset": 11},
    "log softmax": {"ending": ("LogSoftmax",)},
    "softmax and identity": {"ending": ("Softmax", "Identity")},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_graph_in_our_form_answers_as_it_was_given(form, tmp_path):
    adopted = taken(network(**FORMS[form]), tmp_path)
    onnxfile.check(adopted.model, "test", adopted.opset)
    assert adopted.opset == max(18, FORMS[form].get("opset", 18))
    shape = [dim.dim_param or dim.dim_value for dim in adopted.model.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 1, SIZE, SIZE]
    batch = images()
    found = answers(adopted.model, batch)
    given = np.concatenate([answers(adopted.given, batch[i : i + 1]) for i in range(len(batch))])
    if adopted.ending:
        found = np.exp(found) / np.exp(found).sum(axis=1, keepdims=True)
        given = np.exp(given) if adopted.ending == "LogSoftmax" else given
    assert np.abs(found - given).max() <= TOLERANCE
    assert np.abs(given).max() > 0.1
    assert adopted.fixed == (FORMS[form].get("batch") == 1)


def test_what_was_changed_is_said(tmp_path):
    assert taken(network(), tmp_path).changes == ("its input 'x' is now 'input'", "its output 'y0' is now 'logits'")
    changed = taken(network(batch=1, opset=11, flatten="Reshape", ending=("Softmax",)), tmp_path).changes
    assert "operator set 11 converted to 18" in changed
    assert {"its last Softmax taken off: it answers with logits", "its batch of 1 made free"} <= set(changed)


def test_reading_leaves_the_file_alone(tmp_path):
    path = written(network(batch=1, opset=11), tmp_path)
    before = path.read_bytes()
    adopt(read.read(path), path.name, WANTED, 18)
    assert path.read_bytes() == before and read.digest(path) == read.sha256_file(path)


@pytest.mark.parametrize("opset", [11, 18])
def test_unused_operator_sets_and_weights_named_as_inputs_do_no_harm(tmp_path, opset):
    model = network(opset=opset)
    model.opset_import.add(domain="com.microsoft", version=1)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    adopted = taken(model, tmp_path)
    onnxfile.check(adopted.model, "test")


def test_counts_are_those_of_one_image(tmp_path):
    adopted = taken(network(), tmp_path)
    parameters = HIDDEN * 9 + HIDDEN + HIDDEN * 16 * CLASSES
    assert count.count(adopted.model) == (parameters, 16 * HIDDEN * 9 + HIDDEN * 16 * CLASSES)


# ---- weights in a second file -----------------------------------------------------------------------------------------


@pytest.fixture
def split(tmp_path):
    """A model whose weights lie in a second file."""
    options = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0}
    return written(network(), tmp_path, **options)


def test_weights_in_a_second_file_are_read_and_hashed(split):
    whole = adopt(read.read(split), "m.onnx", WANTED, 18)
    one_file = adopt(read.read(written(network(), split.parent, "one.onnx")), "one.onnx", WANTED, 18)
    assert np.array_equal(answers(whole.model, images()), answers(one_file.model, images()))
    before = read.digest(split)
    data = split.with_name("m.data")
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)
    assert read.digest(split) != before


def relocate(path, location):
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("location", ["../m.data", "/etc/passwd", "sub/m.data", "..", "C:\\m.data", "sub\\m.data"])
def test_weights_elsewhere_are_refused(split, location):
    (split.parent / "sub").mkdir()
    shutil.copyfile(split.with_name("m.data"), split.parent / "sub" / "m.data")
    relocate(split, location)
    for look in (read.digest, read.read):
        with pytest.raises(RecipeError, match="wants its weights from"):
            look(split)


def test_a_second_file_that_is_gone_or_a_link_is_named(split, tmp_path):
    data = split.with_name("m.data")
    data.rename(tmp_path / "elsewhere")
    with pytest.raises(RecipeError, match=r"m\.data, which is no plain file"):
        read.read(split)
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecipeError, match=r"m\.data, which is no plain file"):
        read.digest(split)


def test_a_second_file_cut_short_is_damaged(split):
    data = split.with_name("m.data")
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(IntegrityError, match="ends at byte"):
        read.read(split)


# ---- refused ----------------------------------------------------------------------------------------------------------


def with_node(kind, *, domain="", inputs=("y0",), **attributes):
    model = network()
    model.graph.node.append(helper.make_node(kind, list(inputs), ["extra"], domain=domain, **attributes))
    if domain:
        model.opset_import.add(domain=domain, version=1)
    return model


def with_first(kind, image, elem=TensorProto.FLOAT, **attributes):
    """A network that turns its input into images by its first operator."""
    model = network(x=elem, image=image)
    model.graph.node[0].input[0] = "first"
    inputs = ["x", "image"] if kind == "Reshape" else ["x"]
    model.graph.node.insert(0, helper.make_node(kind, inputs, ["first"], **attributes))
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 1, SIZE, SIZE]), "image"))
    return model


def with_function():
    model = network()
    body = [helper.make_node("Relu", ["a"], ["b"])]
    model.functions.append(helper.make_function("mine", "F", ["a"], ["b"], body, [helper.make_opsetid("", 18)]))
    return model


def with_branch():
    branch = helper.make_graph(
        [helper.make_node("Identity", ["y0"], ["z"])], "b", [], [helper.make_tensor_value_info("z", 1, None)]
    )
    model = network()
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["extra"], then_branch=branch, else_branch=branch))
    return model


def with_sparse():
    model = network()
    values, places = helper.make_tensor("v", 1, [1], [1.0]), helper.make_tensor("i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2**40]))
    return model


def with_halves():
    model = network()
    model.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float16), "half"))
    return model


def with_dropout():
    model = network()
    ratio, yes = np.array(0.5, np.float32), np.array(True)
    model.graph.initializer.extend([numpy_helper.from_array(ratio, "ratio"), numpy_helper.from_array(yes, "yes")])
    model.graph.node.append(helper.make_node("Dropout", ["y0", "ratio", "yes"], ["extra"]))
    return model


def with_outputs():
    model = network()
    model.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, ("n", HIDDEN, 4, 4)))
    return model


def computed_shape():
    """A shape that is put together inside the graph for one image."""
    model = network(batch=1, flatten="Reshape")
    model.graph.node.insert(0, helper.make_node("Identity", ["shape"], ["shape_too"]))
    next(node for node in model.graph.node if node.op_type == "Reshape").input[1] = "shape_too"
    return model


def huge():
    """An activation of 4 GiB an image out of a file of a few kB."""
    model = network()
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2**15, 2**15]), "big"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["big"], ["extra"]))
    return model


REFUSED = {
    "custom operator": (lambda: with_node("Evil", domain="evil.corp"), r"not ONNX's own: evil\.corp\.Evil"),
    "contrib operator": (lambda: with_node("FusedConv", domain="com.microsoft"), "com.microsoft.FusedConv"),
    "function": (with_function, "functions of its own"),
    "branch": (with_branch, "branches or loops: If"),
    "sparse weights": (with_sparse, "sparse weights"),
    "half precision": (with_halves, "16-bit"),
    "training mode": (with_dropout, r"training mode \(Dropout\)"),
    "two outputs": (with_outputs, "2 outputs: y0, c"),
    "bytes as images": (lambda: with_first("Cast", ("n", 1, SIZE, SIZE), TensorProto.UINT8, to=1), "x is uint8"),
    "flat images": (lambda: with_first("Reshape", ("n", SIZE * SIZE)), r"x is float \[n, 64\]"),
    "other channels": (lambda: network(image=("n", 3, SIZE, SIZE)), "3 x 8 x 8"),
    "channels last": (lambda: with_first("Transpose", ("n", SIZE, SIZE, 1), perm=[0, 3, 1, 2]), "channels come before"),
    "other classes": (lambda: network(logits=("n", CLASSES)), "for 3 classes"),
    "several images": (lambda: network(batch=8), "8 images at a time"),
    "sigmoid": (lambda: network(ending=("Sigmoid",)), "ends in Sigmoid"),
    "quantized softmax": (lambda: network(ending=("Softmax", "Flatten")), "ends in Flatten after Softmax"),
    "computed shape": (computed_shape, "takes one image at a time"),
    "memory": (huge, "1,073,741,824 values"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_carried_on_is_refused(name, tmp_path):
    build, says = REFUSED[name]
    wanted = replace(WANTED, classes=7) if name == "other classes" else WANTED
    with pytest.raises(RecipeError, match=says):
        taken(build(), tmp_path, wanted)


@pytest.mark.parametrize("content", [b"", b"\x08", b"PK\x03\x04 zipped", b"no protobuf at all"])
def test_no_onnx_is_damaged(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    for look in (read.digest, read.read, read.is_quantized):
        with pytest.raises(IntegrityError, match=r"m\.onnx"):
            look(path)


def test_a_graph_that_the_checker_refuses_is_damaged(tmp_path):
    model = network()
    model.graph.node[0].input[0] = "nobody"
    with pytest.raises(IntegrityError, match="checker refuses"):
        read.read(written(model, tmp_path))


def test_a_file_too_large_is_not_read(tmp_path, monkeypatch):
    path = written(network(), tmp_path)
    monkeypatch.setattr(read, "MOST_BYTES", path.stat().st_size - 1)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("was read"))
    with pytest.raises(RecipeError, match="bytes large"):
        read.digest(path)


def test_a_quantized_graph_is_known_by_its_operators():
    model = network()
    assert read.quantized(model) == ""
    model.graph.node.append(helper.make_node("QuantizeLinear", ["y0", "s"], ["q"]))
    assert read.quantized(model) == "QuantizeLinear 1"
    with pytest.raises(RecipeError, match="quantized already"):
        form.require_scheme(model, "m.onnx", "none")
    with pytest.raises(RecipeError, match="is a float32 file"):
        form.require_scheme(network(), "m.onnx", "u8s8")
