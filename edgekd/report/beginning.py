"""Where a chain begins: which steps it has no need of, and what was imported in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.report.folder import Folder


def skipped(kind: str, folders: Mapping[str, Folder], recipe: Mapping[str, Any] | None) -> str:
    """Why a chain has no step of this kind, in words; empty when it is only not run yet."""
    student: Mapping[str, Any] = (recipe or {}).get("student") or {}
    beginning = next((folder for folder in folders.values() if folder.params.get("onnx_sha256")), None)
    file = beginning.metrics.get("onnx") if beginning is not None else student.get("onnx")
    if file is not None:
        quantized = beginning.artifact.step != "graph" if beginning is not None else student.get("scheme") is not None
        absent = ("teacher", "student", "graph") if quantized else ("teacher", "student")
        return "the chain begins at an ONNX file" if kind in absent else ""
    if kind != "teacher":
        return ""
    if "student" in folders:
        fitted = folders["student"]
        if fitted.params.get("checkpoint_sha256"):
            return "the student is imported"
        return "" if "teacher" in fitted.artifact.inputs else "the method needs no teacher"
    if student.get("checkpoint"):
        return "the student is imported"
    return "the method needs no teacher" if recipe is not None and recipe.get("teacher") is None else ""


def imported(name: str, folder: Folder, model: Mapping[str, Any]) -> str:
    """What an ONNX file is that stands at the beginning of a chain."""
    scheme = name.partition("/")[2]
    form = f"{scheme} ({model.get('operators', '?')})" if scheme else f"fp32 ONNX, opset {model.get('opset', '?')}"
    return f"{model.get('model', '?')}, imported from {folder.metrics.get('onnx', '?')} as {form}"
