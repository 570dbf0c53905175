"""What is climbed: the forms of one network as plain parts, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekd.analysis.diverging import Ranges
from edgekd.data.normalize import Statistics

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

TORCH = "torch"


@dataclass(frozen=True)
class File:
    """One ONNX file of the chain.

    Attributes:
        name: Of its rung: `graph`, `quantized/u8s8`, `export/onnx` ...
        path: The file.
        before: Rung that its answers are held against; "": it is the origin.
        source: Rung whose tensors it must have; "": those of `before`.
        scheme: As in its `model.json`.
        facts: Its `model.json`; None: there is none.
        labels: The lines of its `labels.txt`; None: there is none.
        bounds: Of its export target, by name.
        ranges: {tensor: (scale, zero point)} that the network was trained with; None: it was calibrated.
        equalized: Neighbouring layers were balanced before it was quantized: its tensors are those of the balanced graph.
    """

    name: str
    path: Path
    before: str
    source: str = ""
    scheme: str = "none"
    facts: Mapping[str, Any] | None = None
    labels: Sequence[str] | None = None
    bounds: Mapping[str, float] = field(default_factory=dict)
    ranges: Ranges | None = None
    equalized: bool = False


@dataclass(frozen=True)
class Stored:
    """Answers that somebody else gave and that cannot be had again here, such as a device's.

    Attributes:
        name: Of its rung.
        before: Rung that it is held against.
        scheme: As in `ladder.Answers`.
        rows: [m] int64 of test.
        logits: [m, classes] float16.
        note: Who gave them.
        bounds: Of its export target, by name.
    """

    name: str
    before: str
    scheme: str
    rows: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float16]
    note: str
    bounds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Twin:
    """A torch network in the middle of the chain: the fake-quantized one.

    Attributes:
        name: Of its rung.
        before: Rung that it is held against.
        scheme: As in `ladder.Answers`.
        build: Makes it, in eval mode.
    """

    name: str
    before: str
    scheme: str
    build: Callable[[], nn.Module]


@dataclass(frozen=True)
class Missing:
    """A rung that cannot be run here, and why."""

    name: str
    before: str
    why: str


@dataclass(frozen=True)
class Parts:
    """Everything that is climbed.

    Attributes:
        images: uint8 [n, H, W, C].
        labels: int64 [n].
        rows: int64 [n] of test; -1 where the image is not of test.
        classes: The data's class names, in order.
        norm: (mean, std) that the network was trained with.
        network: The origin; None: the first file is.
        retrace: The network traced anew, for its tensors; called only where they are compared.
        rungs: In the order of the chain.
        names: {who says so: class names}, beside what the files say.
        norms: {who says so: (mean, std)}, likewise.
        threads: CPU threads, >= 1.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    classes: Sequence[str]
    norm: Statistics
    network: nn.Module | None
    retrace: Callable[[], ModelProto] | None
    rungs: Sequence[File | Stored | Twin | Missing]
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    norms: Mapping[str, Statistics] = field(default_factory=dict)
    threads: int = 1
