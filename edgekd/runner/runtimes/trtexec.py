"""TensorRT through its program `trtexec`: images in files, answers in files, times by its own clock. Written, not run on hardware.

Every `infer` is a process that loads the engine, so queries are not timed from outside: `own_times` gives what trtexec measured.

Source: trtexec (NVIDIA), --loadInputs, --exportOutput and --exportTimes. Needs: trtexec, and an NVIDIA driver.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Optional

import numpy as np

from edgekd.runner import onnxhead
from edgekd.runner.failure import MISSING, STAGE_FAILED, RunnerError
from edgekd.runner.runtimes.base import Runtime, Setting
from edgekd.runner.trt import cache, gpu, options, placement
from edgekd.runner.trt.command import PLACES, Program, find_program
from edgekd.runner.trt.session import PARTS

if TYPE_CHECKING:
    import numpy.typing as npt

TIMES = ("h2dMs", "computeMs", "d2hMs")  # as PARTS
KINDS = {onnxhead.FLOAT: np.float32, onnxhead.HALF: np.float16}
NOT_CAPTURED = "graph capture"  # of its warning that it goes on without the graph that was asked for


class Engine(Runtime):
    """One engine file and the program that runs it."""

    parts = PARTS
    whole = True

    def __init__(self) -> None:
        path = find_program()
        if path is None:
            found = "not on PATH, nor in " + ", ".join(PLACES)
            raise RunnerError(MISSING, "trtexec", found, "trtexec", "Jetson: sudo apt-get install libnvinfer-bin")
        self._program = Program(path)
        self.version = self._program.version
        self.provider = ""
        self.batch: Optional[int] = None
        self.settings = {"through": "trtexec " + path, "timed_by": "trtexec"}
        self.part_ns = []
        self._shelf: Optional[cache.Shelf] = None
        self._engine = Path()

    def load(self, path: Path, setting: Setting) -> None:
        """The engine of an ONNX file, built unless this device has it."""
        options.check_provider(setting.provider)
        self._options = options.read(setting.options)
        if path.suffix != ".onnx":
            found = "trtexec does not say which input an engine has"
            raise RunnerError(MISSING, path.name, found, "the ONNX file, or TensorRT's Python bindings")
        self._head = onnxhead.read(path)
        device = gpu.facts()
        self.settings.update(device, cuda_graph=str(self._options.cuda_graph), **self._options.build)
        facts = cache.facts_of("trtexec", path, self.version, device, self._options.build)
        self._shelf = cache.Shelf(setting.cache, facts)
        place = self._shelf.find()
        self.settings["engine"] = "built before" if place is not None else "built now"
        self._engine = place or self._built(path, self._shelf)
        self.settings.update(placement.check(self._layers(), self._options))
        self.batch, self.provider = self._head.shape[0], options.PROVIDER

    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The first output, as float32; a process for each piece of `max_batch`."""
        most = self.batch or (1 if self._options.dla_core is not None else self._options.max_batch)
        return np.concatenate([self._answer(batch[i : i + most]) for i in range(0, len(batch), most)])

    def own_times(self, batch: npt.NDArray[np.float32], seconds: float, queries: int) -> Optional[List[List[int]]]:
        """What trtexec measured of batch 1, each query's copies and computing, in its own order; its warm-up left out."""
        with tempfile.TemporaryDirectory() as name:
            data, out = self._written(batch[:1], Path(name)), Path(name, "times.json")
            line = self._program.time(self._engine, self._head, data, out, (seconds, queries), self._options)
            said = self._program.run(line, "trtexec: times")
            if self._options.cuda_graph and NOT_CAPTURED in said and "failed" in said:
                raise RunnerError(STAGE_FAILED, "options: cuda_graph", "trtexec could not record a graph", "a graph")
            found = _read(out)
        try:
            return [[int(1e6 * float(query[key])) for key in TIMES] for query in found]
        except (KeyError, TypeError, ValueError) as error:
            raise RunnerError(
                STAGE_FAILED, "trtexec: times", "not as expected: {!r}".format(error), ", ".join(TIMES)
            ) from error

    def judged(self, accepted: bool) -> bool:
        """Keep the engine, or delete it and take the one before."""
        before = None if self._shelf is None else self._shelf.judge(accepted)
        if before is None:
            return False
        self.settings["rolled_back_to"] = before.stem[:12]
        self._engine = before
        return True

    def close(self) -> None:
        """Nothing is held."""

    def _built(self, path: Path, shelf: cache.Shelf) -> Path:
        cache.say("no engine for this device yet ({}): trtexec builds {}".format(shelf.why(), path.name))
        shelf.folder.mkdir(parents=True, exist_ok=True)
        timing = shelf.folder / "timing-{}.cache".format(
            cache.key_of({"tool": "trtexec", "tensorrt": self.version})[:16]
        )
        with tempfile.TemporaryDirectory(dir=str(shelf.folder)) as name:
            scratch = Path(name, "scratch.engine")
            self._program.run(self._program.build(path, scratch, self._head, self._options, timing), path.name)
            if not scratch.is_file():
                raise RunnerError(STAGE_FAILED, path.name, "trtexec wrote no engine", "an engine")
            return shelf.put(scratch.read_bytes())

    def _layers(self) -> List[Any]:
        if self._options.dla_core is None:
            return []
        with tempfile.TemporaryDirectory() as name:
            out = Path(name, "layers.json")
            self._program.run(self._program.layers(self._engine, out, self._options), "trtexec: layers")
            found = _read(out)
        return list(found.get("Layers", [])) if isinstance(found, dict) else []

    def _answer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with tempfile.TemporaryDirectory() as name:
            data, out = self._written(batch, Path(name)), Path(name, "out.json")
            line = self._program.answer(self._engine, self._head, len(batch), data, out, self._options)
            self._program.run(line, "trtexec: inference")
            found = _read(out)
        try:
            return np.array(found[0]["values"], dtype=np.float32).reshape(len(batch), -1)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise RunnerError(
                STAGE_FAILED, "trtexec: answers", "not as expected: {!r}".format(error), "values"
            ) from error

    def _written(self, batch: npt.NDArray[np.float32], folder: Path) -> Path:
        """The images as trtexec reads them: raw values of the input's type."""
        if self._head.kind not in KINDS:
            raise RunnerError(STAGE_FAILED, "input", "ONNX type {}".format(self._head.kind), "float32 or float16")
        (folder / "input.bin").write_bytes(np.ascontiguousarray(batch, dtype=KINDS[self._head.kind]).tobytes())
        return folder / "input.bin"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunnerError(
            STAGE_FAILED, "trtexec", "{}: {}".format(path.name, error), "a JSON file of its own"
        ) from error
