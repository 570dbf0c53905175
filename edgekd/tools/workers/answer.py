"""Answers images with one of the runner's engines, in the Python of the tool that has the engine's package.

Needs: NumPy and that package; the engine itself comes with the job (`runner`, a runner.pyz), as it goes to a board.
"""

import importlib
import sys
from pathlib import Path

import numpy as np

REPORT = 4  # lines of progress in all


def main(job: dict) -> dict:
    """Write `logits` [n, classes] float32 for `rows` of `images`; says the engine's version and what it ran on."""
    sys.path.insert(0, job["runner"])
    from edgekd.runner.image import Normaliser
    from edgekd.runner.runtimes import base

    # not by `base.find`: a package that is missing here is a broken tool, which the bootstrap says
    engine = importlib.import_module(base.names()[job["engine"]]).Engine()
    options = job.get("options", {})
    engine.load(Path(job["model"]), base.Setting(job["provider"], job["threads"], options, Path.cwd() / "cache"))
    images = np.load(job["images"], mmap_mode="r", allow_pickle=False)
    rows = np.load(job["rows"], allow_pickle=False)
    normalise, size = Normaliser(job["mean"], job["std"]), engine.batch or job.get("batch", 64)
    logits = []
    for start in range(0, len(rows), size):
        chosen = np.asarray(images[rows[start : start + size]])
        short = size - len(chosen) if engine.batch else 0  # a fixed batch is filled up, and the filling thrown away
        filled = np.concatenate([chosen, np.repeat(chosen[-1:], short, axis=0)]) if short else chosen
        logits.append(engine.infer(normalise(filled))[: len(chosen)])
        done, step = start + len(chosen), max(len(rows) // REPORT, 1)
        if len(rows) >= 1000 and start // step != done // step:
            print("> {}: {}/{} images".format(job["engine"], done, len(rows)))
    np.save(job["logits"], np.concatenate(logits).astype(np.float32))
    return {"version": engine.version, "provider": engine.provider, "settings": engine.settings}
