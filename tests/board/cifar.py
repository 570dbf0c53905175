"""By hand: an int8 student of CIFAR-10 on the fake board, all its 10,000 test images, held to this machine's answers.

    EDGEKD_DATA=... python -m tests.board.cifar WORKSPACE [ARTIFACT]

WORKSPACE holds a chain of CIFAR-10 up to `export`, which gets two more artifacts of `bench`; ARTIFACT is what `--from` takes.
Some 40 ms an image: seven minutes for a ResNet-20. Seen with 86.95 % in float32: 87.12 % there and here, no answer another; logits
of 9,438 images equal to the last bit, those of the others within 0.8 % of the range (`test_int8_parity.py` says why).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from edgekd.store import Store
from tests.board import board as boards
from tests.board import build
from tests.board.world import DEVICE, World
from tests.faults.chain import expect
from tests.tolerances import INT8_OTHER_PROCESSOR_TO_RANGE, OTHER_ANSWERS

STEP = "bench/onnx-int8@"
LIMIT_S = 3600.0
LEAST_IMAGES = 2000


def main(workspace: Path, start: str = "latest") -> int:
    """Bench on the board and here, and print what both answered."""
    with tempfile.TemporaryDirectory() as folder:
        with boards.running(Path(folder) / "board", build.build(build.SUITES["bookworm"])) as board:
            world = World(workspace.resolve(), board)
            world.write_board()
            answers, data = {}, os.environ.get("EDGEKD_DATA")
            for device in (DEVICE, "cpu"):
                begun = time.monotonic()
                done = world.edgekd(
                    "bench", "--workspace", str(workspace.resolve()), "--from", start, "--device", device,
                    "--format", "onnx-int8", "--set", "bench.runtime=onnxruntime", "--set", "bench.profile=smoke",
                    *(["--data-root", data] if data else []), limit=LIMIT_S,
                )  # fmt: skip
                expect(done.code == 0, done.err)
                made = Store(workspace).newest(STEP + device)
                with np.load(made.path / "predictions.npz") as file:
                    answers[device] = {name: file[name] for name in file}
                sys.stdout.write(f"{device}: {time.monotonic() - begun:.0f} s\n{done.out}\n")
    return _compare(answers[DEVICE], answers["cpu"])


def _compare(there: dict[str, np.ndarray], here: dict[str, np.ndarray]) -> int:
    """Print both accuracies and how the answers differ; 3 where they differ by more than a step here and there."""
    n, logits = len(there["row"]), here["logits"].astype(float)
    right = [int((found["answer"] == found["label"]).sum()) for found in (there, here)]
    others = int((there["answer"] != here["answer"]).sum())
    unequal = int((there["logits"] != here["logits"]).any(axis=1).sum())
    error = np.abs(there["logits"].astype(float) - logits).max() / np.ptp(logits)
    sys.stdout.write(
        f"{n:,} test images, right: {right[0]:,} on emulated aarch64, {right[1]:,} here; {others} answered otherwise; logits of "
        f"{n - unequal:,} images equal to the last bit, largest error of the others {error:.2g} of the range\n"
    )
    sound = n >= LEAST_IMAGES and others <= OTHER_ANSWERS * n and error <= INT8_OTHER_PROCESSOR_TO_RANGE
    return 0 if sound else 3


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
