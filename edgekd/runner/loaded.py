"""A verified bundle with its engine loaded, and the golden images answered."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict

from edgekd.runner import image, measure, state, verify
from edgekd.runner.bundle import Bundle
from edgekd.runner.failure import CHECK_FAILED, STAGE_FAILED, USAGE, RunnerError
from edgekd.runner.image import Normaliser
from edgekd.runner.runtimes import base

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

REJECTED = (CHECK_FAILED, STAGE_FAILED)  # golden images answered wrongly, or not at all


@dataclass(frozen=True)
class Loaded:
    """A model that can be asked.

    Attributes:
        bundle: Its files are those that it lists.
        normalise: Images -> input.
        runtime: With the model.
        kind: `this CPU`, `this accelerator`, `board`, `emulated`, `simulator` or `estimated`: what its times are worth.
        facts: load_ms, model, runtime, kind, of result.json.
    """

    bundle: Bundle
    normalise: Normaliser
    runtime: base.Runtime
    kind: str
    facts: Dict[str, Any]

    def answer(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Logits [B, classes] of images [B, H, W, C]."""
        return self.runtime.infer(self.normalise(images))

    def query(self) -> measure.Query:
        """A timed query of one image."""
        return measure.make_query(self.normalise, self.runtime.infer, image.conclude)

    def recorder(self) -> measure.Recorder:
        """Where its queries' times go."""
        return measure.Recorder(self.runtime.parts, lambda: self.runtime.part_ns)

    def golden(self) -> Dict[str, Any]:
        """Check the golden answers; an engine that was built wrongly may go back to an earlier build, which is then checked.

        Raises:
            RunnerError: 3: answers outside the tolerance; 6: golden.npz is not what it should be.
        """
        while True:
            try:
                found = verify.golden(self.bundle, self.normalise, self.runtime)
            except RunnerError as error:
                if error.exit_code not in REJECTED or not self.runtime.judged(False):
                    raise
                continue
            self.runtime.judged(True)
            return dict(found)


def load(bundle: Bundle) -> Loaded:
    """Check every file, then load the engine and the model, each timed.

    Raises:
        RunnerError: 2, 4, 5, 6 or 7, as `edgekd.runner.failure` names them.
    """
    verify.files(bundle)
    begun = time.perf_counter_ns()
    runtime = base.find(bundle.runtime)()
    imported = time.perf_counter_ns()
    path = bundle.path(bundle.model)
    runtime.load(path, base.Setting(bundle.provider, bundle.threads, bundle.options, base.cache_folder()))
    loaded = time.perf_counter_ns()
    if runtime.batch not in (None, 1):
        raise RunnerError(USAGE, bundle.model, "fixed to batch {}".format(runtime.batch), "batch 1, or any batch")
    kind = _kind(bundle, runtime)
    facts = {
        "kind": kind,
        "load_ms": (loaded - imported) / 1e6,
        "model": {"file": bundle.model, "bytes": path.stat().st_size, "sha256": bundle.files[bundle.model]},
        "runtime": {
            "name": bundle.runtime,
            "version": runtime.version,
            "provider": runtime.provider,
            "threads": bundle.threads,
            "settings": runtime.settings,
            "import_ms": (imported - begun) / 1e6,
        },
    }
    return Loaded(bundle, Normaliser(bundle.mean, bundle.std), runtime, kind, facts)


def _kind(bundle: Bundle, runtime: base.Runtime) -> str:
    """What the times are worth: a simulator stays one on a real board, and all is emulated on an emulated one."""
    if runtime.kind != base.Runtime.kind:
        return runtime.kind
    return "emulated" if state.emulated() else bundle.device_kind
