"""Made-up runs: sealed-looking artifact folders with the files that each stage writes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import keys, predictions
from edgekd.artifact import Artifact
from edgekd.params import Roles, TeacherParams
from edgekd.predictions import Predictions
from edgekd.report.facts import gather
from edgekd.report.schema import Facts

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Maker:
    """Builds a chain of artifacts under a folder; every figure is made up."""

    def __init__(self, root: Path, classes: tuple[str, ...] = CLASSES, n: int = 2000, seed: int = 0) -> None:
        self.root, self.classes, self.n = root, classes, n
        self.random = np.random.default_rng(seed)
        self.label = self.random.integers(0, len(classes), n)
        self.hard = self.random.random(n)  # one difficulty an image, so that the models of a chain err alike
        self.made: dict[str, Artifact] = {}

    def artifact(
        self,
        step: str,
        inputs: tuple[str, ...],
        metrics: dict[str, Any] | None = None,
        params: dict[str, Any] | None = None,
    ) -> Path:
        key, digest = (hashlib.sha256(f"{word}{step}".encode()).hexdigest() for word in ("key", "digest"))
        path = self.root / step / f"{key[:8]}-{digest[:8]}"
        path.mkdir(parents=True)
        made_from = {
            name.partition("/")[0]: {"id": self.made[name].id, "digest": self.made[name].digest} for name in inputs
        }
        manifest = {
            "step": step,
            "key": key,
            "digest": digest,
            "inputs": made_from,
            "metrics": metrics or {},
            "params": params or {},
            "files": {},
            "test_touches": 1 if "export" not in step else 0,
            "versions": {"edgekd": "0.1.0", "torch": "2.15.0"},
            "host": {"system": "Linux", "name": "secret-host"},
        }
        self.made[step] = Artifact(path, manifest)
        return path

    def answers(self, path: Path, accuracy: float, *, rows: np.ndarray | None = None, noise: float = 0.0) -> None:
        """predictions.npz with about this share right; wrong answers lean to the next class."""
        hard = self.hard + noise * self.random.standard_normal(self.n)
        wrong = hard > np.quantile(hard, accuracy)
        shift = self.random.choice([1, 1, 2, len(self.classes) - 1], self.n)
        answer = np.where(wrong, (self.label + shift) % len(self.classes), self.label)
        logits = np.zeros((self.n, len(self.classes)), np.float32)
        logits[np.arange(self.n), answer] = 5
        row = np.arange(self.n) if rows is None else rows
        predictions.save(path, Predictions.make(row, self.label, logits, "test"))

    def write(self, path: Path, name: str, value: Any) -> None:
        (path / name).write_text(json.dumps(value), encoding="utf-8")

    def data(self) -> None:
        path = self.artifact("data", ())
        document = {
            "name": "cifar10",
            "kind": "cifar10",
            "layout": "parquet",
            "classes": list(self.classes),
            "channels": 3,
            "height": 32,
            "width": 32,
            "splits": {"train": 50000, "test": self.n},
            "duplicates": {"rule": "error", "dropped": 0, "groups": 0},
            "split_rule": "as shipped",
        }
        self.write(path, "data.json", document)

    def teacher(self) -> None:
        params = keys._hashed(
            TeacherParams(
                model="resnet56_a",
                checkpoint="resnet56.th",
                checkpoint_sha256="ab" * 32,
                trained_on="train+val",
                roles=Roles(val=500),
                seed=0,
            )
        )
        path = self.artifact("teacher", ("data",), {"val_top1_percent": 99.9, "n_val": 500}, params)
        self.write(path, "model.json", {"model": "resnet56_a", "parameters": 853018, "macs": 125485706})
        self.answers(path, 0.934)

    def student(self, use: str = "rtk", epochs: int = 60) -> None:
        inputs = ("data",) if use == "ce" else ("data", "teacher")
        metrics = {"val_top1_percent": 91.2, "n_val": 500}
        path = self.artifact("student", inputs, metrics, self.distilled(use))
        self.write(path, "model.json", {"model": "resnet20", "parameters": 272474, "macs": 40817162})
        history = []
        for epoch in range(1, epochs + 1):
            left = float(np.exp(-4 * epoch / epochs))
            terms = {"ce": 0.25 + 1.6 * left, "kd": 0.4 + 2.2 * left, "rtk": 0.9 * left + 0.08}
            row = {"epoch": epoch, "lr": 0.05, "loss": sum(terms.values()), **terms, "train_seconds": 9.1}
            history.append({**row, "images_per_second": 5200.0, "val_top1_percent": 91.2 - 40 * left, "n_val": 500})
        self.write(path, "history.json", history)
        self.answers(path, 0.918, noise=0.03)
        if use == "rtk":
            attention = self.random.dirichlet(np.full(9, 0.25), 3).astype(np.float32)
            taps = {
                "student_taps": [f"stage.{i}" for i in range(3)],
                "teacher_taps": [f"block.{i * 3}" for i in range(9)],
            }
            np.savez(path / "diagnostics.npz", attention=attention, **{k: np.array(v) for k, v in taps.items()})

    @staticmethod
    def distilled(use: str) -> dict[str, Any]:
        return {
            "model": "resnet20",
            "distill": {"use": use, "args": {}},
            "roles": {"val": 500, "train": None, "seed": 0},
        }

    def graph(self) -> None:
        path = self.artifact("graph", ("data", "student"), {"file_bytes": 1093217})
        self.write(path, "model.json", {"model": "resnet20", "parameters": 272474, "macs": 40817162, "opset": 18})
        (path / "predictions.npz").write_bytes((self.made["student"].path / "predictions.npz").read_bytes())

    def quantized(self) -> None:
        path = self.artifact(
            "quantized/u8s8", ("data", "graph"), {"file_bytes": 371002, "calibration_images": 512}, {"scheme": "u8s8"}
        )
        self.write(path, "model.json", {"model": "resnet20", "parameters": 272474, "macs": 40817162})
        self.write(
            path, "calibration.json", {"rows": [1, 2], "images": 512, "seed": 0, "args": {"calibrate": "entropy"}}
        )
        self.answers(path, 0.915, noise=0.03)

    def export(self, target: str, source: str) -> None:
        self.artifact(f"export/{target}", (source,), {"file_bytes": self.made[source].metrics["file_bytes"]})

    def bench(self, target: str, source: str, ms: float, **changed: Any) -> Path:
        n = 12000
        samples = 1e6 * (ms + self.random.gamma(2.0, 0.03 * ms, n))
        samples[self.random.integers(0, n, 40)] *= 1 + self.random.pareto(1.5, 40)
        p50, p90 = np.percentile(samples, [50, 90]) / 1e6
        metrics = {
            "latency_p50_ms": p50,
            "latency_p50_low_ms": p50 * 0.997,
            "latency_p50_high_ms": p50 * 1.003,
            "latency_p90_ms": p90,
            "n_latency": n,
            "throughput_per_s": 2600 / p50,
            "throughput_batch": 128,
            "verdict": "valid-unlocked",
            "reasons": ["the clock cannot be read or fixed here (no frequency governor)"],
            "file_bytes": self.made[source].metrics["file_bytes"],
        }
        name = f"bench/{target}@cpu"
        path = self.artifact(name, ("data", f"export/{target}"), metrics | changed)
        (path / "predictions.npz").write_bytes((self.made[source].path / "predictions.npz").read_bytes())
        machine = {"cpu": "Made-up CPU 3000", "threads": 1, "governor": "performance", "temperature_c": [41.0, 44.5]}
        runtime = {"name": "onnxruntime", "version": "1.31.1", "provider": "CPUExecutionProvider", "threads": 1}
        self.write(path, "result.json", {"latency": {"x": 1}, "machine": machine, "runtime": runtime} | changed)
        np.savez(
            path / "samples.npz",
            end_to_end_ns=samples.astype(np.int64),
            inference_ns=(samples * 0.93).astype(np.int64),
            preprocess_ns=(samples * 0.06).astype(np.int64),
        )
        return path

    def chain(self) -> dict[str, Artifact]:
        self.data()
        self.teacher()
        self.student()
        self.graph()
        self.quantized()
        self.export("onnx", "graph")
        self.export("onnx-int8", "quantized/u8s8")
        self.bench("onnx", "graph", 1.42)
        self.bench("onnx-int8", "quantized/u8s8", 0.78)
        return self.made


RECIPE = {
    "name": "cifar10_resnet20_short",
    "seed": 0,
    "distill": {"use": "rtk", "beta": 50},
    "teacher": {"model": "resnet56_a"},
}


@pytest.fixture
def recipe() -> dict[str, Any]:
    return RECIPE


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """One whole chain that no test changes."""
    maker = Maker(tmp_path_factory.mktemp("whole"))
    maker.chain()
    return maker


@pytest.fixture(scope="session")
def found(whole: Maker) -> Facts:
    """Its facts."""
    return gather(whole.made, RECIPE)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Maker]:
    """A maker of runs under tmp_path: `make(classes=..., n=..., seed=...)`."""
    return lambda **options: Maker(tmp_path / f"run{len(list(tmp_path.iterdir()))}", **options)
