"""A real small bundle: handwritten digits and a linear classifier written with onnx.helper, its golden logits by NumPy."""

import hashlib
import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

from edgekd.params import BenchParams, Roles

MEAN, STD = [0.3], [0.35]
PARAMS = BenchParams(
    target="onnx",
    device="cpu",
    runtime="onnxruntime",
    provider="CPUExecutionProvider",
    transport="local",
    golden_error_to_range=1e-4,
    profile="smoke",
    roles=Roles(val=0),
)


def digits():
    """uint8 [N, 8, 8, 1] and int64 [N]."""
    data = load_digits()
    return (data.images * 15.9375).astype(np.uint8)[..., None], data.target.astype(np.int64)


def classifier(images, labels):
    """Nearest class mean as a linear layer: weights [64, 10], bias [10]."""
    pixels = (images / 255 - MEAN[0]) / STD[0]
    means = np.stack([pixels[labels == label].reshape(-1, 64).mean(axis=0) for label in range(10)])
    return means.T.astype(np.float32), (-0.5 * (means**2).sum(axis=1)).astype(np.float32)


def linear_onnx(path, weights, bias, batch="batch"):
    """[batch, 1, 8, 8] -> flatten -> Gemm -> [batch, 10]."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["input"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"]),
        ],
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, weights.shape[1]])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def logits_of(images, weights, bias):
    """What the linear model must answer, in NumPy."""
    return ((images / 255 - MEAN[0]) / STD[0]).reshape(len(images), -1).astype(np.float32) @ weights + bias


class BundleFolder:
    """A bundle on disk whose json can be changed and written again."""

    def __init__(self, folder):
        self.folder = folder
        images, labels = digits()
        self.images, self.labels = images[1000:], labels[1000:]
        self.rows = np.arange(0, len(self.images), 2, dtype=np.int64)
        self.weights, self.bias = classifier(images[:1000], labels[:1000])
        linear_onnx(folder / "model.onnx", self.weights, self.bias)
        np.save(folder / "images.npy", self.images)
        np.save(folder / "labels.npy", self.labels)
        np.save(folder / "rows.npy", self.rows)
        golden = images[:4]
        np.savez(folder / "golden.npz", images=golden, logits=logits_of(golden, self.weights, self.bias))
        self.json = {
            "schema_version": 2,
            "kind": "bench",
            "target": "onnx",
            "lineage": {"export/onnx": "ab" * 32},
            "model": "model.onnx",
            "precision": "fp32",
            "runtime": "onnxruntime",
            "provider": "CPUExecutionProvider",
            "options": {},
            "threads": 1,
            "profile": "smoke",
            "device_kind": "this CPU",
            "probes": {},
            "mean": MEAN,
            "std": STD,
            "size": [8, 8],
            "resize": "fit-crop",
            "labels": [str(i) for i in range(10)],
            "images": "images.npy",
            "labels_file": "labels.npy",
            "rows": "rows.npy",
            "golden": "golden.npz",
            "tolerance": 1e-4,
            "batch": 64,
            "files": {},
        }
        self.seal()

    def seal(self, **changes):
        """Take the files' hashes, change keys, write bundle.json; a key changed to None is left out."""
        self.json["files"] = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.folder.iterdir()
            if path.name != "bundle.json"
        }
        self.json.update(changes)
        kept = {name: value for name, value in self.json.items() if value is not None}
        (self.folder / "bundle.json").write_text(json.dumps(kept))
        return self.folder
