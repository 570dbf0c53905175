"""The files of a bundle that people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.params import BenchParams
from edgekd.profiles import RuntimeFacts, precision

README, LABELS = "README.txt", "labels.txt"
LINES = {
    "deploy": (
        "python3 runner.pyz selftest .                 # is everything here, and are the golden answers right?",
        "python3 runner.pyz predict . IMAGE_OR_FOLDER  # PNG, PPM, BMP, NPY; JPEG where Pillow or OpenCV is installed",
        "python3 runner.pyz serve-stdin .              # keeps the model loaded and answers line by line",
    ),
    "bench": (
        "python3 runner.pyz selftest .                 # is everything here, and are the golden answers right?",
        "python3 runner.pyz bench . ../out             # accuracy and latency, into ../out/result.json",
        "python3 runner.pyz predict . IMAGE_OR_FOLDER  # PNG, PPM, BMP, NPY; JPEG where Pillow or OpenCV is installed",
    ),
}


def readme(params: BenchParams, facts: Mapping[str, Any], kind: str, runtime: RuntimeFacts) -> str:
    """What it is, what it needs and the three lines to type.

    Args:
        params: Target, runtime.
        facts: The model.json of the export.
        kind: `deploy` or `bench`.
        runtime: Of the device.
    """
    size = f"{facts['width']}x{facts['height']}x{facts['channels']}"
    what = f"{facts['model']}, {precision(str(facts.get('scheme', 'none')))}, target {params.target}"
    needs = f" ({runtime.needs})" if runtime.needs else ""
    images = "The test images are raw uint8 in images_test.npy." if kind == "bench" else "No test image is in here."
    return "\n".join(
        (
            f"{what}: {len(facts['classes'])} classes, images of {size}. {images}",
            "",
            f"The board needs Python 3.8 or newer, NumPy and {params.runtime}{needs}. Then, in this folder:",
            "",
            *(f"    {line}" for line in LINES[kind]),
            "",
            "bundle.json lists every file with its SHA-256; a changed or added file ends each command with exit code 6.",
            "Where bundle.sig is here, add --public-key KEY: the key that its maker gave you, never one from this folder.",
            "",
        )
    )


def labels(classes: Sequence[str]) -> str:
    """One class a line: class i is line i."""
    return "".join(f"{' '.join(label.split())}\n" for label in classes)
