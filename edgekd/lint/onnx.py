"""Rules of family `onnx`: onnxruntime's CPU provider loads the file and has a kernel for every node.

Source: onnxruntime (Microsoft, MIT), its own verdict. Needs: onnxruntime.
"""

from __future__ import annotations

from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from edgekd.errors import IntegrityError
from edgekd.lint.base import Graph, Rule
from edgekd.onnxrun import session


def _refusal(graph: Graph) -> tuple[str, bool]:
    """(what onnxruntime says against the file, whether it is for want of a kernel); empty where it loads."""
    try:
        session(graph.path)
    except IntegrityError as error:
        return error.found, isinstance(error.__cause__, NoKernel)
    return "", False


def _unloadable(graph: Graph) -> list[str]:
    said, kernel = _refusal(graph)
    return [said] if said and not kernel else []


def _without_kernel(graph: Graph) -> list[str]:
    said, kernel = _refusal(graph)
    return [said] if kernel else []


RULES = (
    Rule(
        "onnx-loads",
        "onnxruntime does not load it",
        "no program can run it through onnxruntime",
        "export it again, with onnx.checker.check_model(model, full_check=True) beside it",
        _unloadable,
    ),
    Rule(
        "onnx-kernel",
        "an operator without a kernel for its types",
        "onnxruntime's CPU provider cannot run that node",
        "another type (float32) or another operator there",
        _without_kernel,
    ),
)
