"""Does TensorRT take an ONNX file? Asked of TensorRT-RTX (extra `trt-check`), which parses and builds without a GPU.

It shares TensorRT's ONNX parser and its strongly typed networks; the engine that it builds is for other chips than a Jetson's
and is thrown away. It works in a process of its own: its native library is not loaded into this one, and where it dies
(1.7 does, of a computed scale) that is a verdict, not the end of an export.

Source: TensorRT-RTX Python API (NVIDIA). Needs: tensorrt-rtx-cu13 (NVIDIA's licence), or says that nothing was checked.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

from edgekd.errors import CheckFailed, MissingTool, StageFailed

TOOL = "TensorRT-RTX"
MODULE = "tensorrt_rtx"
INSTALL = "pip install 'edgekd[trt-check]'"
PROGRAM = Path(__file__).with_name("trtbuild.py")
UNUSABLE = 5  # its exit code for a package that cannot be loaded
LIMIT = 600.0  # seconds; networks of an edge device take 0.1 to 5
SHOWN = 3  # errors in one message; the parser says one thing in several forms
# What the parser says of a type that it takes for another one: no error of its own, yet other numbers come out.
RETYPED = ("UINT8", "INT8 instead")


def available() -> bool:
    """Whether the package is there; it is not loaded."""
    return util.find_spec(MODULE) is not None


def build(path: Path, where: str) -> dict[str, Any]:
    """Let TensorRT-RTX parse and build a file.

    Args:
        path: The ONNX file.
        where: The step or file, for errors.

    Returns:
        `tool` and `checked`; where true: `version`, `capability` (of the chip built for), `layers`, `build_seconds`, `engine_bytes`,
        `warnings`; else `why`.

    Raises:
        CheckFailed: It refuses the file, takes a type for another one, or dies of it.
        MissingTool: The package is there and cannot be loaded.
        StageFailed: It does not come to an end.
    """
    if not available():
        return {"tool": TOOL, "checked": False, "why": f"{TOOL}: not checked: {INSTALL}"}
    said = _asked(path, where)
    retyped = [line for line in said["warnings"] if any(word in line for word in RETYPED)]
    if not (said["parsed"] and said["built"]) or retyped:
        verb = "parse it" if not said["parsed"] else "build it" if not said["built"] else "take it as it is"
        reasons = (retyped or said["errors"] or ["no reason given"])[:SHOWN]
        raise CheckFailed(
            where, f"TensorRT-RTX {said['version']} does not {verb}: " + "; ".join(reasons), "a file that it builds"
        )
    return {
        "tool": TOOL,
        "checked": True,
        **{key: value for key, value in said.items() if key not in ("parsed", "built")},
    }


def _asked(path: Path, where: str) -> dict[str, Any]:
    """What the program says of a file."""
    line = [sys.executable, "-P", str(PROGRAM), str(path)]  # -P: the modules beside it are not to shadow others
    try:
        done = subprocess.run(line, capture_output=True, text=True, errors="replace", timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired as error:
        raise StageFailed(where, f"TensorRT-RTX took more than {LIMIT:.0f} s", "an answer") from error
    if done.returncode == UNUSABLE:
        found = f"{MODULE} is installed and cannot be loaded ({json.loads(done.stdout)['unusable']})"
        raise MissingTool(where, found, "a whole package, or none", f"{INSTALL} --force-reinstall")
    if done.returncode < 0:
        found = f"TensorRT-RTX died of the file (signal {-done.returncode})"
        raise CheckFailed(where, found, "a file that it builds", "--format tensorrt-fp16, or edgekd sensitivity")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise StageFailed(where, f"TensorRT-RTX ended with exit code {done.returncode}: {last[:400]}", "an answer")
    return dict(json.loads(done.stdout))
