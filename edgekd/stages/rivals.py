"""Other people's stopwatches, as contenders beside our runner: `edgekd bench --against NAME`.

onnxruntime: its own loop (`edgekd.ownloop`). benchmark_app: OpenVINO's, started anew for each block. trtexec: TensorRT's, likewise;
written, not run on hardware. They time the network alone, on inputs that are ready, so they are held against that part of ours.

Source: the options as `trtexec --help` (TensorRT 10) and `benchmark_app --help` (OpenVINO 2025) print them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import edgekd
from edgekd.data import roles
from edgekd.errors import MissingTool, StageFailed
from edgekd.runner.image import Normaliser
from edgekd.stages.bench_bundle import FACTS, IMAGES
from edgekd.stages.bench_turns import Entry
from edgekd.stages.contenders import Contender, Spoken, Started

MODEL = "model.onnx"
OWN_LOOP = Path(edgekd.__file__).parent / "ownloop.py"  # not imported: it loads ONNX Runtime
DISTINCT = 256  # inputs that a loop goes round, as our runner does
TRTEXEC_FOLDER = Path("/usr/src/tensorrt/bin")  # where JetPack and NVIDIA's packages put it
MEDIAN = re.compile(r"Median:\s*([0-9.]+)\s*ms")
Maker = Callable[[Entry, Path], Contender]


def names() -> dict[str, Maker]:
    """What can be run against, by name."""
    return {"onnxruntime": _onnxruntime, "trtexec": _trtexec, "benchmark_app": _benchmark_app}


def _onnxruntime(entry: Entry, work: Path) -> Contender:
    """Its Python API in a process of its own, with our number of threads and its own defaults."""
    inputs = work / "inputs.npy"
    np.save(inputs, _inputs(entry))
    threads, provider = str(entry.params.threads), entry.params.provider
    argv = [sys.executable, str(OWN_LOOP), str(_model(entry)), str(inputs), threads, provider]
    return Spoken("onnxruntime", argv)


def _trtexec(entry: Entry, work: Path) -> Contender:
    program = shutil.which("trtexec") or shutil.which("trtexec", path=str(TRTEXEC_FOLDER))
    if program is None:
        found = f"trtexec is neither on PATH nor in {TRTEXEC_FOLDER}"
        raise MissingTool("--against trtexec", found, "TensorRT", "sudo apt-get install tensorrt")
    from edgekd import onnxfile  # loads onnx

    engine, times = work / "rival.engine", work / "times.json"
    name = onnxfile.load(_model(entry)).graph.input[0].name
    shape = "x".join(map(str, _inputs(entry).shape[1:]))
    build = [f"--onnx={_model(entry)}", f"--shapes={name}:{shape}", f"--saveEngine={engine}", "--skipInference"]
    timed = [f"--loadEngine={engine}", "--duration=0", "--useSpinWait", f"--exportTimes={times}"]

    def once(n: int) -> float:
        if not engine.is_file():
            _run([program, *build])
        _run([program, *timed, f"--iterations={n}"])
        runs = json.loads(times.read_text(encoding="utf-8"))
        return float(np.median([run["latencyMs"] for run in runs])) * 1e6

    return Started("trtexec", once)


def _benchmark_app(entry: Entry, work: Path) -> Contender:
    program = shutil.which("benchmark_app", path=str(Path(sys.executable).parent)) or shutil.which("benchmark_app")
    if program is None:
        found = "benchmark_app is neither beside this Python nor on PATH"
        raise MissingTool("--against benchmark_app", found, "OpenVINO", "python3 -m pip install openvino")
    shape = json.dumps(list(_inputs(entry).shape[1:])).replace(" ", "")
    fixed = ["-m", str(_model(entry)), "-d", "CPU", "-api", "sync", "-hint", "none", "-nstreams", "1", "-ip", "f32"]

    def once(n: int) -> float:
        said = _run([program, *fixed, "-shape", shape, "-nthreads", str(entry.params.threads), "-niter", str(n)])
        found = MEDIAN.search(said)
        if found is None:
            raise StageFailed("benchmark_app", "printed no median", "a line `Median: 1.23 ms`")
        return float(found.group(1)) * 1e6

    return Started("benchmark_app", once)


def _model(entry: Entry) -> Path:
    path = entry.inputs["export"].path / MODEL
    if not path.is_file():
        raise MissingTool("--against", f"{entry.name} has no {MODEL}", "an ONNX file, which such programs read")
    return path


def _inputs(entry: Entry) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The first test images as the network takes them, [n, 1, C, H, W]."""
    data = entry.inputs["data"]
    rows = roles.split(data, entry.params.roles).rows["test"][:DISTINCT]
    images = np.load(data.path / IMAGES, mmap_mode="r")[rows]
    facts = json.loads((entry.inputs["export"].path / FACTS).read_text(encoding="utf-8"))
    normal = Normaliser(facts["normalize"]["mean"], facts["normalize"]["std"])
    return np.stack([normal(image[None]) for image in images])


def _run(argv: Sequence[str]) -> str:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or [""]
        raise StageFailed(Path(argv[0]).name, f"exit code {done.returncode}: {last[0][:400]}", "a program that answers")
    return done.stdout
