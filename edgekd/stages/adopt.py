"""Stage `adopt`, step `graph` or `quantized/<scheme>`: an ONNX file from elsewhere, brought into our form without a change of answers.

There is no network to trace and none to compare with: the file's own answers are the reference, and nothing is said of how it
was trained or quantized.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto

from edgekd import onnxfile, onnxrun, predictions
from edgekd.analysis.expected import require_top1
from edgekd.analysis.parity import ParityReport, fp32_parity
from edgekd.artifact import Artifact
from edgekd.data import calibration, normalize, roles
from edgekd.data.checkpoint_file import find_checkpoint, require_planned
from edgekd.onnximport import count, read, said
from edgekd.onnximport.form import Adopted, Wanted, adopt, require_scheme
from edgekd.onnximport.read import WHERE
from edgekd.params import AdoptParams
from edgekd.profiles import FP32_MAX_ERROR_TO_RANGE
from edgekd.stages.base import RunContext, StageResult
from edgekd.stages.converted import conclude, parity_metrics, predict, spread, write_json
from edgekd.stages.graph import describe

VERSION = 1
PAYLOAD = ("model.onnx", "model.json", "golden.npz", predictions.FILE)
PARITY_IMAGES = 500  # test images that the file as given answers again, perhaps one at a time
REFERENCE = "the imported file itself"
MODEL = "imported network"  # of a file that does not say which


def check(params: AdoptParams, context: RunContext) -> None:
    """Find the file, read it, bring it into our form as far as the data are known.

    Raises:
        RecipeError: No such file, a graph that edgekd does not take, other images or classes than the data have, or
            nothing says how its input is normalised.
        IntegrityError: It is no ONNX, the checker or onnxruntime refuses it, or it changed since the step was planned.
    """
    path = _file(params, context)
    model = read.read(path)
    require_scheme(model, path.name, params.scheme)
    said.require_normalize(params.normalize, onnxfile.metadata(model), path.name)
    adopted = adopt(model, path.name, Wanted(context.classes, context.channels, context.size), params.opset)
    onnxrun.session(onnxfile.to_bytes(adopted.model))


def run(params: AdoptParams, inputs: Mapping[str, Artifact], out: Path, context: RunContext) -> StageResult:
    """Bring the file into our form, prove that its answers stay, evaluate.

    Args:
        params: Which file, what it is, how its input is normalised.
        inputs: `data`.
        out: Where `model.onnx`, `model.json`, `golden.npz`, `predictions.npz` and `parity.json` go.
        context: Console and threads.

    Raises:
        RecipeError: See `check`; or its classes are others than the data's, or in another order.
        CheckFailed: Our form answers otherwise than the file, or top-1 is not `student.expect_top1`.
    """
    path = _file(params, context)
    data = roles.split(inputs["data"], params.roles)
    model = read.read(path)
    require_scheme(model, path.name, params.scheme)
    own = onnxfile.metadata(model)
    said.require_classes(own, data.info["classes"], path.name)
    norm = said.statistics(params.normalize, own, data.info, path.name)
    size = (int(data.info["height"]), int(data.info["width"]))
    wanted = Wanted(len(data.info["classes"]), int(data.info["channels"]), size)
    adopted = adopt(model, path.name, wanted, params.opset)
    for change in (*adopted.changes, *([] if "classes" in own else ["its classes taken to be in the data's order"])):
        context.console.log(f"adopt: {path.name}: {change}")
    golden = np.asarray(data.images("train").images[calibration.golden_rows(data, params.golden)])
    kept = _simplified(adopted, params, normalize.apply(golden, *norm))
    facts = _facts(kept, own, params, data.info, norm, adopted.opset)
    onnxfile.set_metadata(kept, describe(facts, REFERENCE, str(params.onnx_sha256)))
    onnxfile.check(kept, "adopt", adopted.opset)
    file = onnxfile.save(kept, out / "model.onnx")
    write_json(out / "model.json", facts)
    test = data.images("test")
    shown = {"golden": (golden, np.arange(len(golden))), "test": (test.images, spread(test.rows, PARITY_IMAGES))}
    reports = _compare(adopted, file, shown, norm, out, context.threads)
    step = "graph" if params.scheme == "none" else f"quantized/{params.scheme}"
    conclude(out, step, REFERENCE, reports, context, changes=list(adopted.changes))
    answers, _ = predict(file, data, norm, context)
    predictions.save(out, answers)
    metrics = {
        **predictions.summarize(answers),
        **parity_metrics(reports["test"]),
        "onnx": path.name,
        "reference": REFERENCE,
        "val_seen_in_training": params.trained_on == "train+val",
        "file_bytes": file.stat().st_size,
        "parameters": facts["parameters"],
        "macs": facts["macs"],
    }
    require_top1(params.expect_top1, metrics, "student.expect_top1")
    return StageResult(metrics, PAYLOAD)


def _file(params: AdoptParams, context: RunContext) -> Path:
    path = find_checkpoint(params.onnx, context.recipe_dir, context.data_roots, WHERE)
    require_planned(path, WHERE, read.digest(path), params.onnx_sha256)
    return path


def _simplified(adopted: Adopted, params: AdoptParams, images: npt.NDArray[np.float32]) -> ModelProto:
    """The graph to keep: what is constant folded into its weights; a quantized one as it is."""
    model = onnxfile.strip(adopted.model)
    if params.scheme != "none" or params.simplify == "none":
        del model.graph.value_info[:]  # inferred here: nothing that the file brought
        return model
    from edgekd.stages import simplification  # onnxsim: not before there is work

    kept, _ = simplification.simplify(model, params.simplify, images, FP32_MAX_ERROR_TO_RANGE)
    return kept


def _facts(
    kept: ModelProto,
    own: Mapping[str, str],
    params: AdoptParams,
    data: Mapping[str, Any],
    norm: normalize.Statistics,
    opset: int,
) -> dict[str, Any]:
    parameters, macs = count.count(onnx.shape_inference.infer_shapes(kept, data_prop=True))
    return {
        "model": own.get("model", MODEL),
        "classes": list(data["classes"]),
        "channels": int(data["channels"]),
        "height": int(data["height"]),
        "width": int(data["width"]),
        "normalize": {"mean": list(norm[0]), "std": list(norm[1])},
        "parameters": parameters,
        "macs": macs,
        "opset": opset,
        "scheme": params.scheme,
        "reference": REFERENCE,
        **({"operators": found} if (found := read.quantized(kept)) else {}),
    }


def _compare(
    adopted: Adopted,
    file: Path,
    shown: Mapping[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]],
    norm: normalize.Statistics,
    out: Path,
    threads: int,
) -> dict[str, ParityReport]:
    """What our form answers against what the file answers, as it was given; writes `golden.npz`."""
    given = onnxrun.session(onnxfile.to_bytes(adopted.given), threads)
    reports = {}
    for name, (images, rows) in shown.items():
        wanted = _answers(given, normalize.apply(images[rows], *norm), adopted.fixed)
        found = onnxrun.evaluate_onnx(file, images, rows, *norm, threads)
        if name == "golden":
            np.savez(out / "golden.npz", images=images[rows], logits=found if adopted.ending else wanted)
        reports[name] = fp32_parity(wanted, _ended(found, adopted.ending))
    return reports


def _answers(given: Any, batch: npt.NDArray[np.float32], one_by_one: bool) -> npt.NDArray[np.float32]:
    step = 1 if one_by_one else onnxrun.BATCH
    return np.concatenate([onnxrun.infer(given, batch[i : i + step]) for i in range(0, len(batch), step)])


def _ended(logits: npt.NDArray[np.float32], ending: str) -> npt.NDArray[np.float32]:
    """Logits [n, classes] as the file gives them, with the softmax that was taken off it."""
    if not ending:
        return logits
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return np.asarray(logs if ending == "LogSoftmax" else np.exp(logs), dtype=np.float32)
