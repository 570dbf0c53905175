"""ONNX Runtime's own loop: a default session that answers one input after the other, timed around `run` and nothing else.

    python ownloop.py MODEL INPUTS.npy THREADS PROVIDER

A program of its own that imports nothing of edgekd, so that it can be held against edgekd's runner. Every option of the session is
the library's default but the number of threads (0: that, too). It waits for its turns: `step N` on stdin is answered with the
nanoseconds of N runs in JSON, `finish` ends it.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import onnxruntime as ort

WARM = 50  # runs before the first that counts
ERRORS_ONLY = 3


def main() -> int:
    """Serve until told to finish; gives the exit code."""
    model, inputs, threads, provider = sys.argv[1:5]
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    if int(threads):
        options.intra_op_num_threads = int(threads)
    session = ort.InferenceSession(model, options, providers=[provider])
    name, images = session.get_inputs()[0].name, np.load(inputs)  # [n, 1, C, H, W]
    for i in range(WARM):
        session.run(None, {name: images[i % len(images)]})
    print(json.dumps({"ready": True, "version": ort.__version__}), flush=True)
    asked = 0
    for line in sys.stdin:
        word, _, count = line.strip().partition(" ")
        if word != "step":
            break
        taken = []
        for _ in range(int(count)):
            image = images[asked % len(images)]
            asked += 1
            begun = time.perf_counter_ns()
            session.run(None, {name: image})
            taken.append(time.perf_counter_ns() - begun)
        print(json.dumps({"ns": taken}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
