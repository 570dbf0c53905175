"""One bundle -> result.json, samples.npz, predictions.npz.

result.json (`schema_version` 1): verdict, reasons; profile; model {file, bytes, sha256}; runtime {name, version, provider,
threads, settings, import_ms}; load_ms; first_inference_ms; golden; warm_up; latency {end_to_end, preprocess, inference};
includes_preprocess; offline; accuracy; peak_memory_mib; machine; state {before, after, other_cores, stolen_cores}.
samples.npz: `end_to_end_ns`, `preprocess_ns`, `inference_ns`, int64, every query in order.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict

import numpy as np

from edgekd import stats
from edgekd.runner import bundle as bundles
from edgekd.runner import measure, state, verify
from edgekd.runner.bundle import Bundle
from edgekd.runner.failure import INTEGRITY, USAGE, VOID, RunnerError
from edgekd.runner.image import Normaliser
from edgekd.runner.runtimes import base

if TYPE_CHECKING:
    import numpy.typing as npt

SCHEMA_VERSION = 1
DISTINCT = (
    256  # images that the stream and the throughput pass go round: enough that none is always in the nearest cache
)


@dataclass(frozen=True)
class Job:
    """A verified bundle with its data and its loaded model.

    Attributes:
        images: uint8 [N, H, W, C], memory-mapped.
        labels: int64 [N].
        rows: int64 [n], the images to answer.
    """

    bundle: Bundle
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    normalise: Normaliser
    runtime: base.Runtime

    def answer(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Logits [B, classes] of images [B, H, W, C]."""
        return self.runtime.infer(self.normalise(images))


def bench(folder: Path, out: Path) -> Dict[str, Any]:
    """Verify, load, check, measure, answer the test images; the result, also written to `out`.

    Raises:
        RunnerError: 2, 3, 4, 5, 6 or 7, as `edgekd.runner.failure` names them. A void result is written all the same.
    """
    bundle = bundles.read(folder)
    if bundle.profile not in measure.PROFILES:
        raise RunnerError(USAGE, "bundle.json: profile", repr(bundle.profile), "one of: " + ", ".join(measure.PROFILES))
    verify.files(bundle)
    out.mkdir(parents=True, exist_ok=True)
    result: Dict[str, Any] = {"schema_version": SCHEMA_VERSION, "profile": bundle.profile, "machine": state.machine()}
    job = _load(bundle, result)
    _measure(job, result, out)
    _answer(job, result, out)
    job.runtime.close()
    text = json.dumps(result, indent=1, sort_keys=True, allow_nan=False)
    (out / "result.json").write_text(text + "\n", encoding="utf-8")
    if result["verdict"] == state.VOID:
        raise RunnerError(VOID, "measurement", "; ".join(result["reasons"]), "an undisturbed machine", "measure again")
    return result


def _load(bundle: Bundle, result: Dict[str, Any]) -> Job:
    """The data, then the engine and the model, each timed."""
    images = verify.array(bundle, bundle.images, np.uint8, 4)
    labels = verify.array(bundle, bundle.labels_file, np.int64, 1)
    rows = verify.array(bundle, bundle.rows, np.int64, 1)
    if len(images) != len(labels) or images.shape[3] != len(bundle.mean):
        found = "shape {} with {} labels".format(images.shape, len(labels))
        raise RunnerError(INTEGRITY, bundle.images, found, "one label an image, one mean a channel")
    if len(rows) == 0 or int(rows.min()) < 0 or int(rows.max()) >= len(images):
        raise RunnerError(INTEGRITY, bundle.rows, "{} rows".format(len(rows)), "rows in 0..{}".format(len(images) - 1))
    begun = time.perf_counter_ns()
    runtime = base.find(bundle.runtime)()
    imported = time.perf_counter_ns()
    path = bundle.path(bundle.model)
    runtime.load(path, bundle.provider, bundle.threads)
    result["load_ms"] = (time.perf_counter_ns() - imported) / 1e6
    if runtime.batch not in (None, 1):
        raise RunnerError(USAGE, bundle.model, "fixed to batch {}".format(runtime.batch), "batch 1, or any batch")
    result["model"] = {"file": bundle.model, "bytes": path.stat().st_size, "sha256": bundle.files[bundle.model]}
    result["runtime"] = {
        "name": bundle.runtime,
        "version": runtime.version,
        "provider": runtime.provider,
        "threads": bundle.threads,
        "settings": runtime.settings,
        "import_ms": (imported - begun) / 1e6,
    }
    return Job(bundle, images, labels, rows, Normaliser(bundle.mean, bundle.std), runtime)


def _measure(job: Job, result: Dict[str, Any], out: Path) -> None:
    """Cold query, golden images, warm-up, single stream, and the machine's state around them."""
    stream = [np.ascontiguousarray(job.images[row : row + 1]) for row in job.rows[:DISTINCT]]
    query = measure.make_query(job.normalise, job.runtime.infer)
    begun, _, answered = query(stream[0])
    result["first_inference_ms"] = (answered - begun) / 1e6
    result["golden"] = verify.golden(job.bundle, job.normalise, job.runtime)
    before = state.snapshot()
    warm = measure.warm_up(query, lambda i: stream[i % len(stream)])
    samples = measure.single_stream(query, lambda i: stream[i % len(stream)], measure.PROFILES[job.bundle.profile])
    after = state.snapshot()
    result["peak_memory_mib"] = state.peak_memory_mib()  # of the single stream: larger batches come after
    result["verdict"], result["reasons"] = state.verdict(before, after, measure.doubts(warm, samples))
    others, stolen = state.other_load(before, after)
    result["state"] = {"before": before, "after": after, "other_cores": others, "stolen_cores": stolen}
    result["warm_up"] = asdict(warm)
    result["includes_preprocess"] = True
    series = asdict(samples)
    result["latency"] = {name: measure.summary(values) for name, values in series.items()}
    np.savez(str(out / "samples.npz"), **{name + "_ns": values for name, values in series.items()})


def _answer(job: Job, result: Dict[str, Any], out: Path) -> None:
    """Throughput in batches, then top-1 of this very file over all test images."""
    rows, size = job.rows, min(job.runtime.batch or job.bundle.batch, len(job.rows))
    full = min(len(rows), max(DISTINCT, size)) // size
    batches = [np.asarray(job.images[rows[i * size : (i + 1) * size]]) for i in range(full)]
    result["offline"] = measure.offline(job.answer, batches, measure.PROFILES[job.bundle.profile].offline_seconds)
    logits = np.concatenate([job.answer(job.images[rows[i : i + size]]) for i in range(0, len(rows), size)])
    classes = len(job.bundle.labels)
    if logits.shape != (len(rows), classes):
        raise RunnerError(
            INTEGRITY, job.bundle.model, "answers of shape {}".format(logits.shape), "[n, {}]".format(classes)
        )
    truth, answer = np.asarray(job.labels[rows]), logits.argmax(axis=1).astype(np.int64)
    right = int(np.sum(answer == truth))
    low, high = stats.wilson(right, len(rows))
    result["accuracy"] = {
        "right": right,
        "n": len(rows),
        "top1_percent": 100 * right / len(rows),
        "top1_low_percent": 100 * low,
        "top1_high_percent": 100 * high,
    }
    np.savez(
        str(out / "predictions.npz"),
        row=np.asarray(rows),
        label=truth,
        logits=logits.astype(np.float16),
        role=np.full(len(rows), "test"),
        answer=answer,
    )
