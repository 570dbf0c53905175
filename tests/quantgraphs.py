"""Small ONNX graphs with what quantizers stumble over, and images and a judge for them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgekd import onnxfile, onnxrun
from edgekd.quantizers.base import Judge

CLASSES = 5
NORM = ((0.5,), (0.25,))


def build(nodes: list[NodeProto], weights: dict[str, np.ndarray], shape: tuple[int, ...], name: str) -> onnx.ModelProto:
    """`input` [batch, *shape] -> `logits` [batch, CLASSES], shapes inferred."""
    ends = [
        helper.make_tensor_value_info(end, TensorProto.FLOAT, ["batch", *size])
        for end, size in (("input", shape), ("logits", (CLASSES,)))
    ]
    tensors = [numpy_helper.from_array(value, key) for key, value in weights.items()]
    graph = helper.make_graph(nodes, name, ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", onnxfile.OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model)


def _normal(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    fan = np.prod(shape[1:])
    return (random.normal(size=shape) * np.sqrt(2 / fan)).astype(np.float32)


def varied(seed: int = 0) -> onnx.ModelProto:
    """1 channel, depthwise, grouped, a clip, a gate of HardSigmoid, a pooling, an addition; a convolution classifies."""
    random = np.random.default_rng(seed)
    shapes = {
        "c1": (8, 1, 3, 3),
        "dw": (8, 1, 3, 3),
        "gr": (8, 4, 3, 3),
        "c2": (8, 8, 1, 1),
        "head": (CLASSES, 8, 1, 1),
    }
    weights = {f"{key}.w": _normal(random, shape) for key, shape in shapes.items()}
    weights |= {
        f"{key}.b": random.normal(size=shape[0]).astype(np.float32) for key, shape in shapes.items() if key != "c2"
    }
    weights |= {"low": np.float32(0), "high": np.float32(6)}
    same = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["input", "c1.w", "c1.b"], ["a"], "c1", **same),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "dw.w", "dw.b"], ["c"], "dw", group=8, **same),
        helper.make_node("Clip", ["c", "low", "high"], ["d"], "clip"),
        helper.make_node("Conv", ["d", "gr.w", "gr.b"], ["e"], "gr", group=2, **same),
        helper.make_node("HardSigmoid", ["e"], ["s"], "sigmoid"),
        helper.make_node("Mul", ["e", "s"], ["f"], "mul"),
        helper.make_node("MaxPool", ["f"], ["g"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["g", "c2.w"], ["h"], "c2"),
        helper.make_node("Add", ["g", "h"], ["i"], "add"),
        helper.make_node("GlobalAveragePool", ["i"], ["j"], "mean"),
        helper.make_node("Conv", ["j", "head.w", "head.b"], ["k"], "head"),
        helper.make_node("Flatten", ["k"], ["logits"], "flatten"),
    ]
    return build(nodes, weights, (1, 12, 12), "varied")


def stack(seed: int = 0, groups: int = 1, between: str = "Relu") -> onnx.ModelProto:
    """Two convolutions with one operator between them, then a Gemm; the first one's channels are of very different size."""
    random = np.random.default_rng(seed)
    weights = {"c1.w": _normal(random, (8, 1, 3, 3)), "c2.w": _normal(random, (8, 8 // groups, 3, 3))}
    uneven = np.geomspace(0.02, 20, 8).astype(np.float32)
    weights["c1.w"] *= uneven[:, None, None, None]
    weights["c1.b"] = (random.normal(size=8) * uneven).astype(np.float32)
    inputs = 1 / uneven.reshape(groups, -1)  # [group, input]
    scaled = weights["c2.w"].reshape(groups, 8 // groups, -1, 9) * inputs[:, None, :, None]
    weights["c2.w"] = scaled.reshape(weights["c2.w"].shape).astype(np.float32)
    weights |= {"c2.b": random.normal(size=8).astype(np.float32), "fc.w": _normal(random, (CLASSES, 8))}
    weights |= {"fc.b": random.normal(size=CLASSES).astype(np.float32)}
    if between == "Clip":
        weights |= {"low": np.float32(0), "high": np.float32(6)}
    nodes = [
        helper.make_node("Conv", ["input", "c1.w", "c1.b"], ["a"], "c1", pads=[1, 1, 1, 1]),
        helper.make_node(between, ["a", *(["low", "high"] if between == "Clip" else [])], ["b"], "between"),
        helper.make_node("Conv", ["b", "c2.w", "c2.b"], ["c"], "c2", pads=[1, 1, 1, 1], group=groups),
        helper.make_node("Relu", ["c"], ["d"], "relu"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], "mean"),
        helper.make_node("Flatten", ["e"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc.w", "fc.b"], ["logits"], "fc", transB=1),
    ]
    return build(nodes, weights, (1, 12, 12), "stack")


def chain(seed: int = 0, layers: int = 5) -> onnx.ModelProto:
    """Convolutions straight behind each other, as a linear bottleneck and the depthwise one behind it, then a Gemm."""
    random = np.random.default_rng(seed)
    weights = {f"c{i}.w": _normal(random, (16, 16 if i else 1, 3, 3)) for i in range(layers)}
    weights |= {f"c{i}.b": random.normal(size=16).astype(np.float32) for i in range(layers)}
    weights |= {"fc.w": _normal(random, (CLASSES, 16)), "fc.b": random.normal(size=CLASSES).astype(np.float32)}
    values = ["input", *(f"a{i}" for i in range(layers))]
    nodes = [
        helper.make_node("Conv", [values[i], f"c{i}.w", f"c{i}.b"], [values[i + 1]], f"c{i}", pads=[1, 1, 1, 1])
        for i in range(layers)
    ]
    nodes += [
        helper.make_node("GlobalAveragePool", [values[-1]], ["mean"], "mean"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "fc.w", "fc.b"], ["logits"], "fc", transB=1),
    ]
    return build(nodes, weights, (1, 12, 12), "chain")


def images(n: int, seed: int = 1) -> np.ndarray:
    """[n, 1, 12, 12] float32, as a judge's images come out normalised."""
    pixels = np.random.default_rng(seed).integers(0, 256, size=(n, 12, 12, 1), dtype=np.uint8)
    return (pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255 - NORM[0][0]) / NORM[1][0]


def judge(model: onnx.ModelProto, n: int = 300, seed: int = 2) -> Judge:
    """Images whose true classes are the float network's own answers: whatever is lost, quantization lost."""
    pixels = np.random.default_rng(seed).integers(0, 256, size=(n, 12, 12, 1), dtype=np.uint8)
    rows = np.arange(n)
    blank = Judge(pixels, rows, rows, *NORM, threads=1, role="val")
    from edgekd.quantizers import judged

    return Judge(pixels, rows, judged.logits(model, blank).argmax(axis=1), *NORM, threads=1, role="val")


def answers(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    """Logits of a batch."""
    return onnxrun.infer(onnxrun.session(onnxfile.to_bytes(model)), batch)
