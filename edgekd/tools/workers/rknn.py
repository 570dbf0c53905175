"""A float ONNX file -> .rknn in int8 for one Rockchip chip, and what the toolkit's simulator answers.

Job: `model`, `out`: paths; `platform`: `rk3588` ...; `algorithm`: `normal`, `mmse`, `kl_divergence`; `calibration`: .npy float32
[n, C, H, W]; `mean`, `std`: per channel; `answers`: [{`images`: .npy uint8 [N, H, W, C], `rows`: .npy int64 [m], `out`: .npy}].
Answer: `toolkit`, `placement`: [{`id`, `operator`, `name`, `place`, `cycles`}], `internal_kib`, `weight_kib`, `answered`.

The toolkit prints errors and goes on, and prints errors where there are none: its return codes are what counts.

Source: the Python API of rknn-toolkit2 2.5.0 (Rockchip). Needs: the tool environment `rknn`.
"""

import contextlib
import os
import re
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np
from rknn.api import RKNN

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# 4    ConvRelu    INT8    NPU    (1,16,32,32),(32,16,3,3),(32)    (1,32,16,16)    1245/2304/2304    20    Conv:node_Conv_144
ROW = re.compile(r"^D RKNN: \[[^]]*\] (\d+)\s+(\S+)\s+\S+\s+(NPU|CPU|GPU)\s.*?(\d+)/(\d+)/(\d+)\s.*\s(\S+)\s*$", re.M)
MEMORY = re.compile(r"Total (Internal|Weight) Memory Size: ([0-9.]+)KB")
NO_WORK = ("InputOperator", "OutputOperator")
STEP = 1000  # images between two lines of progress


def main(job: dict) -> dict:
    """Compile, then answer."""
    calibration = np.load(job["calibration"], mmap_mode="r")
    with tempfile.TemporaryDirectory() as folder, _quiet(Path(folder) / "tool.log") as log:
        tool = RKNN(verbose=True)
        _compile(tool, job, calibration, Path(folder))
        said = COLOUR.sub("", log())
        _require(tool.init_runtime(), "init_runtime")
        answered = sum(_answer(tool, job, part) for part in job["answers"])
        tool.release()
    return {
        "toolkit": metadata.version("rknn-toolkit2"),
        "placement": placement(said),
        **{f"{name.lower()}_kib": float(size) for name, size in MEMORY.findall(said)},
        "answered": answered,
    }


def placement(said: str) -> list:
    """The operators of the compiler's table, in order; the last table is the one that is compiled.

    Raises:
        RuntimeError: There is none, or a line of it cannot be read: what falls back could be in it.
    """
    found, numbers = {}, []
    for number, kind, target, _, _, cycles, name in ROW.findall(said):
        numbers = [0] if int(number) == 0 else [*numbers, int(number)]
        if kind not in NO_WORK:
            found[int(number)] = {
                "id": int(number),
                "operator": kind,
                "name": name.partition(":")[2] or name,
                "place": target,
                "cycles": int(cycles),
            }
        elif int(number) == 0:
            found = {}
    if not found or sorted(numbers) != list(range(len(numbers))):
        raise RuntimeError(f"rknn-toolkit2's table of operators cannot be read (lines {numbers})")
    return [found[number] for number in sorted(found)]


def _compile(tool: RKNN, job: dict, calibration: np.ndarray, folder: Path) -> None:
    paths = []
    for i, image in enumerate(calibration):
        paths.append(folder / f"{i}.npy")
        np.save(paths[-1], image[None])
    listed = folder / "calibration.txt"
    listed.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    config = tool.config(
        target_platform=job["platform"],
        quantized_dtype="w8a8",
        quantized_algorithm=job["algorithm"],
        quantized_method="channel",
        remove_reshape=True,  # else the last operator, a view of the logits, runs on the CPU
    )
    _require(config, "config")
    shape = [1, *calibration.shape[1:]]
    _require(tool.load_onnx(job["model"], inputs=["input"], input_size_list=[shape]), "load_onnx")
    _require(tool.build(do_quantization=True, dataset=str(listed)), "build")
    _require(tool.export_rknn(job["out"]), "export_rknn")


def _answer(tool: RKNN, job: dict, part: dict) -> int:
    """Logits [m, classes] of some images, written as .npy; how many."""
    images, rows = np.load(part["images"], mmap_mode="r"), np.load(part["rows"])
    mean, std = (np.asarray(job[name], np.float32) for name in ("mean", "std"))
    found = []
    for done, row in enumerate(rows):
        batch = ((images[row][None].astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)
        answer = tool.inference(inputs=[np.ascontiguousarray(batch)], data_format=["nchw"])
        if answer is None:
            raise RuntimeError(f"the simulator gave no answer for image {row}")
        found.append(np.asarray(answer[0], np.float32).reshape(-1))
        if (done + 1) % STEP == 0 or done + 1 == len(rows):
            print(f"> simulator: {done + 1:,} of {len(rows):,} images", file=sys.__stdout__, flush=True)
    np.save(part["out"], np.stack(found))
    return len(found)


def _require(code: int, what: str) -> None:
    if code != 0:
        raise RuntimeError(f"rknn-toolkit2: {what} gave return code {code}")


@contextlib.contextmanager
def _quiet(path: Path):
    """What the tool and its libraries print goes to a file, and from there to the log without its colours; gives a reader.

    Our own lines of progress still go to the standard output.
    """
    kept = [os.dup(1), os.dup(2)]
    shown = os.fdopen(os.dup(1), "w", encoding="utf-8")
    old, sys.__stdout__ = sys.__stdout__, shown
    with path.open("wb") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            yield lambda: path.read_text(encoding="utf-8", errors="replace")
        finally:
            sys.stdout.flush()
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)
            sys.__stdout__ = old
            shown.close()
            print(COLOUR.sub("", path.read_text(encoding="utf-8", errors="replace")), flush=True)
