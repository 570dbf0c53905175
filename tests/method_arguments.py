"""Arguments with which the methods are tested on a handful of images, where their defaults ask for more."""

from typing import Any

ARGUMENTS: dict[str, dict[str, Any]] = {
    "crd": {"nce_k": 64},
    "semckd": {"batch_size": 6},
    "sum": {"of": [{"use": "kd"}, {"use": "afd"}, {"use": "at", "weight": 0.5}]},
}
SHIPPED = ("kdfm", "simkd")  # the methods whose deployed network has layers that the student has not
