"""TensorRT through its Python bindings: an engine from the cache or built now, judged by the golden images, and run.

Written, not run on hardware.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from edgekd.runner.failure import ENGINE_MISMATCH, MISSING, STAGE_FAILED, RunnerError
from edgekd.runner.runtimes.base import Runtime, Setting
from edgekd.runner.trt import build, cache, gpu, options, placement
from edgekd.runner.trt.cudart import Cuda
from edgekd.runner.trt.session import PARTS, Session

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

OLDEST = (8, 6)  # of the bindings that the names used here were checked against
BUILT = (".engine", ".plan")  # files that are engines already
# What TensorRT says, as a warning, of an engine that runs here and was made for another chip.
OTHER_CHIP = "across different models of devices"


class Bindings(Runtime):
    """One engine at work; a subclass names the bindings' module.

    Raises:
        RunnerError: 5: the bindings are older than OLDEST.
    """

    trt: Any
    parts = PARTS

    def __init__(self) -> None:
        self.version = str(self.trt.__version__)
        if tuple(int(part) for part in self.version.split(".")[:2]) < OLDEST:
            found = "TensorRT {} is older than {}".format(self.version, ".".join(map(str, OLDEST)))
            raise RunnerError(MISSING, "runtime tensorrt", found, "8.6, 10 or 11", "a newer JetPack")
        self.provider = ""
        self.batch: Optional[int] = None
        self.settings = {"through": "python bindings"}
        self.part_ns = []
        self._shelf: Optional[cache.Shelf] = None
        self._session: Optional[Session] = None
        self._runtime: Any = None
        self._engine: Any = None
        self._log = build.logger(self.trt)

    def load(self, path: Path, setting: Setting) -> None:
        """The engine of an ONNX file, built unless this device has it; or an engine file, which must be of this device."""
        options.check_provider(setting.provider)
        self._options = options.read(setting.options)
        device = gpu.facts()
        self._cuda = Cuda()
        self.settings.update(device, cuda_runtime=self._cuda.version, **self._options.build)
        self.settings["cuda_graph"] = str(self._options.cuda_graph)
        if path.suffix in BUILT:
            self._open(path, path.name)
        else:
            facts = cache.facts_of("bindings", path, self.version, device, self._options.build)
            self._shelf = cache.Shelf(setting.cache, facts)
            self._from_shelf(path, self._shelf)
        self.provider = options.PROVIDER

    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The first output, as float32."""
        assert self._session is not None
        logits, self.part_ns = self._session.infer(batch)
        return logits

    def judged(self, accepted: bool) -> bool:
        """Keep the engine, or delete it and open the one before."""
        before = None if self._shelf is None else self._shelf.judge(accepted)
        if before is None:
            return False
        self.close()
        self.settings["rolled_back_to"] = before.stem[:12]
        self._open(before, before.name)
        return True

    def close(self) -> None:
        """Give the device's memory back."""
        if self._session is not None:
            self._session.close()
        self._session = self._engine = self._runtime = None

    def _from_shelf(self, path: Path, shelf: cache.Shelf) -> None:
        place = shelf.find()
        self.settings["engine"] = "built before" if place is not None else "built now"
        if place is None:
            cache.say("no engine for this device yet ({})".format(shelf.why()))
            timing = "timing-{}.cache".format(
                cache.key_of({k: shelf.facts[k] for k in ("tensorrt", "gpu", "driver")})[:16]
            )
            shelf.folder.mkdir(parents=True, exist_ok=True)
            place = shelf.put(build.engine(self.trt, path, self._options, self._log, shelf.folder / timing))
        try:
            self._open(place, path.name)
        except RunnerError as error:
            shelf.reject()  # what cannot be opened is not left as current
            code = STAGE_FAILED if error.exit_code == ENGINE_MISMATCH else error.exit_code
            raise RunnerError(
                code, error.where, error.found, error.expected, "run it again: it is built anew"
            ) from error

    def _open(self, path: Path, where: str) -> None:
        """Deserialize an engine and prepare to run it.

        Raises:
            RunnerError: 4: not where it was asked for; 7: no memory; 8: of another version or chip.
        """
        self._runtime = self.trt.Runtime(self._log)
        if self._options.dla_core is not None:
            self._runtime.DLA_core = self._options.dla_core
        seen = len(self._log.errors)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        foreign = [text for text in self._log.warnings if OTHER_CHIP in text]
        if self._engine is None or foreign:
            said = build.line_of(foreign or self._log.errors[seen:])
            found = "not an engine of TensorRT {} on {}: {}".format(self.version, self.settings["gpu"], said)
            hint = "edgekd export --format trt: the ONNX file is built on the device"
            raise RunnerError(ENGINE_MISMATCH, where, found, "an engine that was built here", hint)
        detailed = placement.layers(self.trt, self._engine) if self._options.dla_core is not None else []
        self.settings.update(placement.check(detailed, self._options))
        self._session = Session(self.trt, self._engine, self._cuda, self._options.cuda_graph)
        self.batch = self._session.batch
