"""`edgekd predict FILE|FOLDER`: classify images with an exported file, the way the board would."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import integrity
from edgekd.artifact import Artifact
from edgekd.commands import current, output
from edgekd.errors import IntegrityError, UsageError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}


def predict(paths: Sequence[Path], reference: str | None, top: int, workspace: Path, json: bool) -> None:
    """Print the best classes of each image.

    Raises:
        UsageError: No image, or nothing exported yet.
        IntegrityError: An image cannot be decoded, or has more than 8 bits a channel.
    """
    files = list(_files(paths))
    artifact = _exported(workspace, reference)
    integrity.require(artifact)
    model = jsonlib.loads((artifact.path / "model.json").read_text(encoding="utf-8"))
    images = _decode(files, model, _resize_rule(artifact))
    logits = _logits(artifact, model, images)
    results = [(str(file), _best(row, model["classes"], top)) for file, row in zip(files, logits, strict=True)]
    if json:
        found = [{"file": file, "classes": best} for file, best in results]
        output.print_json({"artifact": artifact.id, "images": found})
        return
    rows = [(file, ", ".join(f"{c['class']} {100 * c['probability']:.1f} %" for c in best)) for file, best in results]
    output.print_table(("image", f"classes ({artifact.id})"), rows)
    output.next_command(f"edgekd eval{current.option(workspace)}")


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not found:
                raise UsageError(str(path), "holds no image", ", ".join(sorted(SUFFIXES)))
            yield from found
        elif path.is_file():
            yield path
        else:
            raise UsageError(str(path), "no such file or folder", "an image or a folder of images")


def _exported(workspace: Path, reference: str | None) -> Artifact:
    place = current.option(workspace)
    if reference is not None:
        artifact = current.resolve(workspace, reference)
        if not (artifact.path / "model.onnx").is_file():
            wanted = "an export, quantized or graph artifact"
            raise UsageError(artifact.id, "holds no model.onnx", wanted, f"edgekd artifacts ls{place}")
        return artifact
    run = current.require(workspace, "an exported model")
    exports = [a for step, a in current.artifacts(workspace, run).items() if step.startswith("export/")]
    if not exports:
        found = "the current run has exported nothing"
        raise UsageError(f"workspace {workspace}", found, "an export", f"edgekd export{place}")
    return exports[-1]


def _resize_rule(artifact: Artifact) -> str:
    return str((artifact.manifest.get("recipe", {}).get("data", {}) or {}).get("resize") or "fit-crop")


def _decode(files: Sequence[Path], model: dict[str, Any], resize: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    from edgekd.data.images import Form, probe, to_array

    form = Form(model["height"], model["width"], model["channels"], resize)
    images = []
    for file in files:
        blob = file.read_bytes()
        probe(blob, str(file))  # refuses more than 8 bits a channel, which decoding would cut to white
        images.append(to_array(blob, str(file), form))
    return np.stack(images)


def _logits(
    artifact: Artifact, model: dict[str, Any], images: np.ndarray[Any, np.dtype[np.uint8]]
) -> np.ndarray[Any, np.dtype[np.float32]]:
    from edgekd.onnxrun import evaluate_onnx

    mean, std = tuple(model["normalize"]["mean"]), tuple(model["normalize"]["std"])
    logits = evaluate_onnx(artifact.path / "model.onnx", images, np.arange(len(images)), mean, std)
    if not np.isfinite(logits).all():
        raise IntegrityError(
            artifact.id, "gives values that are no numbers", "finite logits", "edgekd artifacts verify"
        )
    return logits


def _best(logits: np.ndarray[Any, np.dtype[np.float32]], classes: Sequence[str], top: int) -> list[dict[str, Any]]:
    odds = np.exp(logits.astype(np.float64) - logits.max())
    shares = odds / odds.sum()
    return [{"class": classes[i], "probability": float(shares[i])} for i in np.argsort(-shares, kind="stable")[:top]]
